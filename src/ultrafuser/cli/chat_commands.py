"""The slash commands of `ultrafuser chat`: one function each in the table COMMANDS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ultrafuser.cli.common import write_json
from ultrafuser.files import write_whole
from ultrafuser.lookup import lookup

if TYPE_CHECKING:
    from ultrafuser.cli.chat_loop import Chat

__all__ = ["COMMANDS", "run_command"]

FORMS = ("line", "table", "off")


def run_command(chat: Chat, line: str) -> None:
    """Obey a line that starts with a slash; a mistake is said and changes nothing."""
    name, _, argument = line.removeprefix("/").partition(" ")
    try:
        lookup(COMMANDS, name, "command")[0](chat, argument.strip())
    except (ValueError, OSError) as error:
        chat.say_error(str(error))


def show_help(chat: Chat, argument: str) -> None:
    """List the commands."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, (_, usage, meaning) in COMMANDS.items():
        table.add_row(Text(f"/{name} {usage}".strip(), style="bold"), meaning)
    table.add_row(Text("\\", style="bold"), "at the end of a line: go on in the next")
    chat.console.print(table)


def set_weights(chat: Chat, argument: str) -> None:
    """Show or hide mean weights after answers."""
    if argument:
        lookup(dict.fromkeys(FORMS), argument, "/weights")
    chat.weights = argument or ("line" if chat.weights == "off" else "off")
    chat.say("weights are hidden" if chat.weights == "off" else f"weights are shown as a {chat.weights}")


def set_only(chat: Chat, argument: str) -> None:
    """Let one specialist speak alone, or all again."""
    if not argument:
        chat.say(f"only {chat.only} speaks" if chat.only else "all specialists speak")
        return
    if argument == "off":
        chat.only = None
        chat.say("all specialists speak")
        return
    chat.opened.forced(argument)
    chat.only = argument
    chat.say(f"only {argument} speaks; /only off lets all speak again")


def set_system(chat: Chat, argument: str) -> None:
    """Set, show or remove the system prompt."""
    if argument:
        chat.system = None if argument == "off" else argument
    chat.say(f"system prompt: {chat.system}" if chat.system else "no system prompt")


def reset(chat: Chat, argument: str) -> None:
    """Forget the conversation."""
    chat.exchanges.clear()
    chat.forgotten = 0
    chat.say("the conversation is forgotten" + ("; the system prompt stays" if chat.system else ""))


def set_temperature(chat: Chat, argument: str) -> None:
    """Set or show the temperature."""
    if argument:
        try:
            value = float(argument)
        except ValueError:
            raise ValueError(f"/temperature: {argument!r} is not a number; for example /temperature 0.7") from None
        chat.sampling = replace(chat.sampling, temperature=value)
    now = chat.sampling.temperature
    chat.say(f"temperature {now:g}" if now else "temperature 0 (most likely token)")


def save(chat: Chat, argument: str) -> None:
    """Write the conversation: .html coloured, .json with weights, anything else as text."""
    if not argument:
        raise ValueError("/save: name a file; .html is coloured, .json has the weights, anything else is plain text")
    path = Path(argument).expanduser()
    if path.exists() and path not in chat.saved:
        raise ValueError(f"/save: {argument!r} exists already; name another file")
    if path.suffix == ".html":
        from ultrafuser.analysis.page import render_page

        write_whole(path, render_page(chat.explanation()))
    elif path.suffix == ".json":
        write_json(path, chat.as_dict())
    else:
        write_whole(path, transcript(chat))
    chat.saved.add(path)
    chat.say(f"saved {path}")


def transcript(chat: Chat) -> str:
    """The conversation as plain text."""
    parts = [f"system: {chat.system}"] if chat.system else []
    for exchange in chat.exchanges:
        parts += [f"user: {exchange.question}", f"assistant: {exchange.answer.text}"]
    return "\n\n".join(parts) + "\n"


def leave(chat: Chat, argument: str) -> None:
    """End the chat."""
    chat.running = False


COMMANDS: dict[str, tuple[Callable[[Chat, str], None], str, str]] = {
    "help": (show_help, "", "this list"),
    "weights": (set_weights, "[line|table|off]", "show or hide mean weights after an answer"),
    "only": (set_only, "NAME|off", "let one specialist speak alone, or all again"),
    "system": (set_system, "TEXT|off", "set or remove the system prompt"),
    "reset": (reset, "", "forget the conversation"),
    "temperature": (set_temperature, "X", "0 = most likely token; above it, sample"),
    "save": (save, "FILE", "write the conversation: .html coloured, .json with weights, or text"),
    "quit": (leave, "", "end the chat"),
}
