"""What a judge is: something that compares two answers, and perhaps rates one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = ["Choice", "Chosen", "Comparison", "Judge", "Pair", "Rated", "Rating"]


class Pair(NamedTuple):
    """Two answers to one instruction: the one under test, and the one it has to beat."""

    instruction: str
    answer: str
    reference: str


class Rated(NamedTuple):
    """A conversation whose last answer is to be rated. `references` are right answers, one per question, or empty."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """`win` is 1 where the answer beats the reference, 0 where it loses, 0.5 for a tie.

    `detail` is plain data; "flagged" is true in it where no verdict could be had, so that the tie means nothing.
    """

    win: float
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rating:
    """`rating` from 1 to 10; None, with "flagged" in `detail`, where none could be had."""

    rating: float | None
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


class Choice(NamedTuple):
    """Several answers to the same: of each of `candidates` one text per question."""

    questions: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The place of the candidate chosen; None, with "flagged" in `detail`, where no verdict could be had.

    `detail` is plain data; "agreed" in it says whether two orders of the candidates led to the same one.
    """

    place: int | None
    detail: Mapping[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """A language model behind an endpoint, or a reward model."""

    name: str
    rates: bool  # whether `rate` can be used

    def compare(self, cases: Sequence[tuple[str, str, str]]) -> list[Comparison]:
        """One comparison per case (see `Pair`), in their order."""

    def rate(self, cases: Sequence[Rated]) -> list[Rating]:
        """One rating per case, in their order. Raises ValueError where `rates` is False."""

    def choose(self, cases: Sequence[Choice]) -> list[Chosen]:
        """One candidate per case, in their order."""

    def describe(self) -> dict[str, Any]:
        """What a run's record says about it: all that its verdicts depend on."""

    def close(self) -> None:
        """Let go of what it holds."""
