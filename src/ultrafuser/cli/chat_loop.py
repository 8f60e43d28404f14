"""The loop of `ultrafuser chat`: reads a line, streams an answer, remembers both; slash commands change the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ultrafuser.analysis.page import Explanation, Turn
from ultrafuser.cli.chat_commands import run_command
from ultrafuser.cli.opening import Opened
from ultrafuser.cli.speaking import Answer, TokenPrinter, announce, say_weights
from ultrafuser.generation import Sampling

__all__ = ["Chat", "Exchange"]

Message = dict[str, str]


@dataclass
class Exchange:
    """One question and its answer."""

    question: str
    answer: Answer


@dataclass
class Chat:
    """A conversation in the terminal. `weights` is what is shown after an answer: off, line or table."""

    opened: Opened
    console: Console
    sampling: Sampling
    system: str | None = None
    only: str | None = None
    weights: str = "off"
    exchanges: list[Exchange] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)  # files that /save wrote and may write again
    forgotten: int = 0  # oldest exchanges that no longer fit the specialists' context
    running: bool = True

    def run(self) -> None:
        """Talk until /quit, the end of input, or Ctrl-D."""
        self._greet()
        for line in self._lines():
            if line.startswith("/"):
                run_command(self, line)
            elif line:
                self._answer(line)
                self._gap()
            if not self.running:
                break

    def say(self, text: str, style: str = "dim") -> None:
        """A line about the chat itself."""
        self.console.print(Text(text, style=style), soft_wrap=not self.console.is_terminal)

    def say_error(self, message: str) -> None:
        """A mistake that does not end the chat."""
        text = Text.assemble(("error: ", "bold red"), (message, "red"))
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def messages(self) -> list[Message]:
        """The conversation as the next answer will read it, without the next question."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in self.exchanges[self.forgotten :]:
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer.text})
        return messages

    def explanation(self) -> Explanation:
        """The whole conversation as a page or JSON file shows it."""
        turns = [Turn("system", self.system)] if self.system else []
        tokenizer = self.opened.tokenizer
        for exchange in self.exchanges:
            events = exchange.answer.events
            pieces = tokenizer.convert_ids_to_tokens([event.token_id for event in events])
            turns.append(Turn("user", exchange.question))
            turns.append(Turn("assistant", exchange.answer.text, events, pieces))
        return Explanation(
            title="A conversation, token by token",
            model=self.opened.source,
            names=self.opened.names,
            turns=turns,
            warning=self.opened.gate_notice,
            generated=True,
        )

    def as_dict(self) -> dict[str, Any]:
        """The conversation as plain data."""
        settings = {"system": self.system, "only": self.only, "sampling": asdict(self.sampling)}
        return self.opened.as_dict() | settings | self.explanation().as_dict()

    def _greet(self) -> None:
        count = len(self.opened.names)
        what = "one model" if count == 1 else f"{count} specialists fused"
        self.console.print(Text.assemble((self.opened.source, "bold"), (f"  {what}", "dim")), soft_wrap=True)
        announce(self.console, self.opened)
        if count > 1:
            self.say("Each token has the colour of the specialist that leads; the paler, the less it leads.")
        self.say("/help lists the commands; Ctrl-C stops an answer, /quit or Ctrl-D ends the chat.")
        self._gap()

    def _lines(self) -> Iterator[str]:
        """What the user enters, line by line; a line that ends in a backslash goes on in the next."""
        interactive = sys.stdin.isatty()
        bold = interactive and _edit_lines() and not self.console.no_color
        mark, more = ("\001\033[1m\002> \001\033[0m\002", ". ") if bold else ("> ", ". ") if interactive else ("", "")
        while True:
            try:
                line = input(mark)
                while line.endswith("\\"):
                    line = line[:-1] + "\n" + input(more)
            except EOFError:
                if interactive:
                    self.console.print()
                return
            except KeyboardInterrupt:
                if not interactive:
                    raise
                self.console.print()
                self.say("/quit or Ctrl-D ends the chat.")
                continue
            yield line.strip()

    def _gap(self) -> None:
        if self.console.is_terminal:
            self.console.print()

    def _answer(self, question: str) -> None:
        from ultrafuser.generation.engine import ContextFull, stop_ids

        answer = Answer(self.opened.names, stop_ids(self.opened.model, self.opened.tokenizer))
        while True:
            try:
                self._stream(question, answer)
            except ContextFull as error:
                if self.forgotten >= len(self.exchanges):
                    self.say_error(str(error))
                    return
                self.forgotten += 1
                continue
            except ValueError as error:  # a template that refuses the conversation, for example
                self.say_error(str(error))
                return
            break
        if not answer.events:  # stopped before the first token: nothing was said
            return
        self.exchanges.append(Exchange(question, answer))
        if self.weights != "off":
            say_weights(self.console, self.opened.names, answer.events, self.weights)

    def _stream(self, question: str, answer: Answer) -> None:
        from ultrafuser.generation.engine import stream

        messages = [*self.messages(), {"role": "user", "content": question}]
        sampling = self.sampling
        if sampling.seed is not None:  # another answer each time, the same conversation each run
            sampling = replace(sampling, seed=sampling.seed + len(self.exchanges))
        options = asdict(sampling) | {"gate_weights": self.opened.forced(self.only)}
        printer = TokenPrinter(self.console)
        try:
            events = stream(self.opened.model, self.opened.tokenizer, messages, **options)
            if self.forgotten:
                count = f"{self.forgotten} of {len(self.exchanges)}"
                self.say(f"(the oldest {count} exchanges no longer fit and are left out)")
            for event in events:
                answer.add(event)
                printer.write(event)
        except KeyboardInterrupt:
            self.console.file.write("\n")
            self.say("(stopped)")
            return
        self.console.file.write("\n")
        if not answer.finished:
            self.say(f"(cut off after {len(answer.events)} tokens; start with --max-new-tokens N for longer answers)")


def _edit_lines() -> bool:
    """Arrow keys and history at the prompt, where Python has readline; whether it has."""
    try:
        import readline
    except ImportError:
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
