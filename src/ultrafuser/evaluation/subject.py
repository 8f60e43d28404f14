"""The model under test, as the runner sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ultrafuser.evaluation.benchmark import Answer, Item, Needs

__all__ = ["Asking", "Subject"]


@dataclass(frozen=True, slots=True)
class Asking:
    """How answers are made: at most `max_new_tokens` per turn; greedy at temperature 0; `seed` for sampling."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Subject(Protocol):
    """A fused model, a plain Transformers model, one specialist of a fused model, or an endpoint."""

    name: str  # as the user named it
    specialists: list[str]  # whose prompts and gate weights the record shows; a single name where there is no gate
    offers: frozenset[Needs]

    def describe(self) -> dict[str, Any]:
        """What the record says about it: kind, specialists, gate, number format, device, or address and model."""

    def length(self, item: Item) -> int:
        """About how long the item is (tokens, or characters), to batch like with like."""

    def answer(self, items: Sequence[Item], asking: Asking) -> Iterator[tuple[int, Answer]]:
        """Answers with the index of their item, as they come; local models answer all of `items` as one batch."""
