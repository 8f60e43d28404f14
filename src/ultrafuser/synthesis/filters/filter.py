"""What a filter is: its options, what it is given to judge, and the row of the table that describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ultrafuser.recipe.parts import Strict
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import EDITED, Record
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps import Step

__all__ = [
    "ANSWERS",
    "REQUESTS",
    "Filter",
    "FilterOptions",
    "Verdicts",
    "Work",
    "chunks",
    "each",
    "is_answer",
    "text_of",
]

REQUESTS = ("instructions", "expansion", "complication")  # steps that make what a user asks
ANSWERS = ("responses", "further_turns")  # steps that make what an assistant says

Verdicts = Iterator[tuple[str, str]]  # id of a record to drop, and why


class FilterOptions(Strict):
    """Options that every filter has."""

    steps: list[str] | None = None
    """Steps whose records are judged; null: those that the filter is usually for."""
    domains: list[str] | None = None
    """Domains whose records are judged; null: all of them (for code and math: those whose `checks` name it)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one filter has to judge: the records of `step` in `domains`."""

    spec: Spec
    domains: Sequence[Domain]
    journal: Journal
    step: str
    options: Any

    def records(self) -> Iterator[Record]:
        """The records, in the order of the plan; without those rejected before, and those that a person wrote."""
        for domain in self.domains:
            for record in self.journal.records(self.step, domain.name):
                if record.state != EDITED:
                    yield record


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: `judge(work)` yields what to drop, in an order and for reasons that follow from the plan alone.

    `steps` are those whose records it can judge, `usual` those it judges unless told otherwise. It reads by cursor and
    keeps no texts. A reason begins with words that are the same for all of its kind; details follow a colon.
    `by_checks` filters judge only domains whose `checks` name them. `ready(spec, options)` raises ValueError, before
    anything is asked, for what is missing. `asks(work)` is a step whose requests are made before it judges.
    `reads(spec, options)` are files that its verdicts depend on: where their content changes, it judges again.
    """

    name: str
    summary: str
    steps: tuple[str, ...]
    judge: Callable[[Work], Verdicts]
    options: type[FilterOptions] = FilterOptions
    usual: tuple[str, ...] = field(default=())
    by_checks: bool = False
    ready: Callable[[Spec, Any], None] | None = None
    asks: Callable[[Work], Step] | None = None
    reads: Callable[[Spec, Any], Sequence[Path]] | None = None


def text_of(record: Record) -> str:
    """What a record says: its text, or the name of a topic."""
    return str(record.data.get("text") or record.data.get("name") or "")


def is_answer(record: Record) -> bool:
    """Whether an assistant says it."""
    return record.step in ANSWERS and record.data.get("role", "assistant") == "assistant"


def chunks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    """Records in lists of at most `size`."""
    while chunk := list(islice(records, size)):
        yield chunk


def each(check: Callable[[Record, Work], str | None]) -> Callable[[Work], Verdicts]:
    """A filter's `judge` out of a check of single records, which gives the reason to drop one, or None."""

    def judge(work: Work) -> Verdicts:
        for record in work.records():
            reason = check(record, work)
            if reason is not None:
                yield record.id, reason

    return judge
