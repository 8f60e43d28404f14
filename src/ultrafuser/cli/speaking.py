"""Answers on the terminal: tokens coloured as they come, plain text where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ultrafuser.analysis.colours import colour, dominant, shade
from ultrafuser.analysis.page import token_dict
from ultrafuser.analysis.terminal import legend, weights_line
from ultrafuser.cli.opening import Opened

if TYPE_CHECKING:
    from ultrafuser.generation.engine import TokenEvent

__all__ = ["Answer", "TokenPrinter", "announce", "mean_weights", "say_weights", "terminal_safe"]


class TokenPrinter:
    """Writes tokens as they come, unwrapped; colours them where the console can."""

    def __init__(self, console: Console) -> None:
        self.console = console
        name = console.color_system if console.is_terminal and not console.no_color else None
        self.colours = COLOR_SYSTEMS[name] if name else None

    def write(self, event: TokenEvent) -> None:
        """Show one token."""
        if not event.text:
            return
        text = terminal_safe(event.text) if self.console.is_terminal else event.text
        if self.colours is not None and event.weights:
            text = Style(color=shade(event.weights)).render(text, color_system=self.colours)
        self.console.file.write(text)
        self.console.file.flush()


class Answer:
    """One answer as it was given: its tokens, how long it took, whether it came to its own end."""

    def __init__(self, names: Sequence[str], stop_ids: Sequence[int]) -> None:
        self.names = list(names)
        self.stop_ids = set(stop_ids)
        self.events: list[TokenEvent] = []
        self.started = time.perf_counter()
        self.seconds = 0.0

    def add(self, event: TokenEvent) -> None:
        """Take note of one token."""
        self.events.append(event)
        self.seconds = time.perf_counter() - self.started

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(event.text for event in self.events)

    @property
    def finished(self) -> bool:
        """False when it was cut off or stopped."""
        return bool(self.events) and self.events[-1].token_id in self.stop_ids

    def as_dict(self) -> dict[str, Any]:
        """The answer as plain data; `tokenizers` only where the specialists' differ, see `Crossings`."""
        from ultrafuser.generation.events import crossings

        met = crossings(self.events)
        return {
            "answer": self.text,
            "finished": self.finished,
            "seconds": round(self.seconds, 4),
            "tokens_per_second": round(len(self.events) / self.seconds, 2) if self.seconds else None,
            "mean_weights": mean_weights(self.names, self.events),
            **({} if met is None else {"tokenizers": met.as_dict(self.names)}),
            "tokens": [token_dict(event, self.names) for event in self.events],
        }


def mean_weights(names: Sequence[str], events: Iterable[TokenEvent]) -> dict[str, float]:
    """Mean weight of each specialist over the tokens that have weights."""
    rows = [event.weights for event in events if event.weights]
    return {name: sum(row[j] for row in rows) / max(1, len(rows)) for j, name in enumerate(names)}


def announce(console: Console, opened: Opened) -> None:
    """The legend, and a warning where the gate is untrained."""
    if len(opened.names) > 1:
        console.print(legend(opened.names))
    if opened.gate_notice:
        text = Text.assemble(("untrained gate: ", "bold yellow"), (opened.gate_notice, "yellow"))
        console.print(text, soft_wrap=not console.is_terminal)


def say_weights(console: Console, names: Sequence[str], events: Sequence[TokenEvent], form: str = "line") -> None:
    """Mean weights of an answer as a line, or as a table with how many tokens each specialist led."""
    means = mean_weights(names, events)
    if form == "line":
        plain = console.no_color or console.color_system is None
        console.print(weights_line(means, plain=plain), soft_wrap=True)
        return
    leads = [dominant(event.weights) for event in events if event.weights]
    table = Table(box=None, pad_edge=False)
    for heading in ("specialist", "mean weight", "leads on"):
        table.add_column(heading, justify="left" if heading == "specialist" else "right")
    for j, (name, mean) in enumerate(means.items()):
        share = leads.count(j) / max(1, len(leads))
        table.add_row(Text(f"■ {name}", style=colour(j)), f"{mean:.3f}", f"{100 * share:.0f}% of {len(leads)} tokens")
    console.print(table)


def terminal_safe(text: str) -> str:
    """Text in which control characters are shown as pictures, so that an answer cannot steer the terminal."""
    return "".join(_picture(character) for character in text)


def _picture(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or 0x20 <= code < 0x7F or code > 0x9F:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "�"
