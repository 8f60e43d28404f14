"""The work of `ultrafuser generate`: reading prompts, answering them one by one or in batches."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ultrafuser.cli.opening import Opened
from ultrafuser.cli.speaking import Answer, TokenPrinter, announce, say_weights
from ultrafuser.generation import Sampling

__all__ = ["Message", "Showing", "answer_prompts", "new_messages", "read_messages", "read_prompts"]

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Showing:
    """How answers are shown; `batch_size` is None for one prompt that streams."""

    console: Console
    weights: bool = False
    batch_size: int | None = None


def read_prompts(prompt: str | None, file: Path | None, system: str | None) -> list[list[Message]]:
    """The conversations to answer: one from the prompt or standard input, or all of a file's lines."""
    if file is not None:
        if prompt is not None:
            raise ValueError("PROMPT and --file: give one of them")
        return _read_file(file, system)
    if prompt is None or prompt == "-":
        if sys.stdin.isatty():
            raise ValueError("PROMPT: give a prompt, pipe one into standard input, or name a --file")
        prompt = sys.stdin.read().strip()
    if not prompt.strip():
        raise ValueError("PROMPT: it is empty; give at least one word")
    return [new_messages(prompt, system)]


def new_messages(prompt: str, system: str | None) -> list[Message]:
    """A conversation of one user message, after a system prompt where there is one."""
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": prompt}]


def read_messages(value: Any, where: str) -> list[Message]:
    """A list of messages as it stands in a file, checked; `where` names the place in errors."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: messages must be a list that is not empty, each with role and content")
    for number, message in enumerate(value):
        place = f"{where}: messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"{place} must be an object with role and content")
        if message.get("role") not in ROLES:
            raise ValueError(f"{place}.role: {message.get('role')!r} is not one of {', '.join(ROLES)}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def answer_prompts(
    opened: Opened, conversations: Sequence[Sequence[Message]], sampling: Sampling, only: str | None, show: Showing
) -> dict[str, Any]:
    """Answer every conversation and show the answers; returns what the JSON file holds."""
    options = asdict(sampling) | {"gate_weights": opened.forced(only)}
    if show.console.is_terminal or show.weights:
        announce(show.console, opened)
    elif opened.gate_notice:
        announce(Console(stderr=True, highlight=False), opened)
    if show.batch_size is None:
        answers = [_stream_one(opened, conversations[0], options, show)]
    else:
        answers = _answer_batches(opened, conversations, options, show)
    rows = [{"messages": list(m)} | answer.as_dict() for m, answer in zip(conversations, answers, strict=True)]
    return opened.as_dict() | {"only": only, "sampling": asdict(sampling), "answers": rows}


def _stream_one(opened: Opened, messages: Sequence[Message], options: dict[str, Any], show: Showing) -> Answer:
    from ultrafuser.generation.engine import stop_ids, stream

    printer = TokenPrinter(show.console)
    answer = Answer(opened.names, stop_ids(opened.model, opened.tokenizer))
    for event in stream(opened.model, opened.tokenizer, messages, **options):
        printer.write(event)
        answer.add(event)
    show.console.file.write("\n")
    _after(answer, options, show)
    return answer


def _answer_batches(
    opened: Opened, conversations: Sequence[Sequence[Message]], options: dict[str, Any], show: Showing
) -> list[Answer]:
    from ultrafuser.generation.engine import generate_batch, stop_ids

    stops = stop_ids(opened.model, opened.tokenizer)
    printer = TokenPrinter(show.console)
    answers = []
    assert show.batch_size is not None
    found = generate_batch(opened.model, opened.tokenizer, conversations, batch_size=show.batch_size, **options)
    for number, generation in enumerate(found, start=1):
        answer = Answer(opened.names, stops)
        prompt = " ".join(conversations[number - 1][-1]["content"].split())
        heading = Text(f"[{number}/{len(conversations)}] {prompt}", style="bold")
        show.console.print(heading, no_wrap=True, overflow="ellipsis", crop=show.console.is_terminal)
        for event in generation.events:
            printer.write(event)
            answer.add(event)
        answer.seconds = generation.seconds
        show.console.file.write("\n")
        _after(answer, options, show)
        show.console.file.write("\n")
        answers.append(answer)
    return answers


def _after(answer: Answer, options: dict[str, Any], show: Showing) -> None:
    if show.weights:
        say_weights(show.console, answer.names, answer.events)
    if not answer.finished and show.console.is_terminal:
        show.console.print(f"(cut off after {len(answer.events)} tokens; see --max-new-tokens)", style="dim")


def _read_file(file: Path, system: str | None) -> list[list[Message]]:
    if not file.is_file():
        raise ValueError(f"--file: file {str(file)!r} does not exist")
    conversations = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            conversations.append(_read_line(line, f"{file}, line {number}", system))
    if not conversations:
        raise ValueError(f"--file: {file} holds no prompts; write one JSON string or object per line")
    return conversations


def _read_line(line: str, where: str, system: str | None) -> list[Message]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error}); write a JSON string or object") from error
    if isinstance(value, str):
        return new_messages(value, system)
    if isinstance(value, dict) and isinstance(value.get("prompt"), str):
        return new_messages(value["prompt"], value.get("system", system))
    if isinstance(value, dict) and "messages" in value:
        messages = read_messages(value["messages"], where)
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return new_messages("", system)[:-1] + messages if messages[0]["role"] != "system" else messages
    raise ValueError(f"{where}: has neither prompt nor messages; write a string or an object with one of them")
