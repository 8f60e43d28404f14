"""A run's instructions for looking at: the pool by cursor with its topics, and an even draw from a stream."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import Record

__all__ = ["Pooled", "Reservoir", "pool_rows"]

T = TypeVar("T")
REMEMBERED = 20_000  # topics and instructions kept while their children are read


@dataclass(frozen=True, slots=True)
class Pooled:
    """An instruction with the names of the topics that it was made for, where there are any."""

    text: str
    domain: str
    meta_topic: str | None
    sub_topic: str | None


def pool_rows(journal: Journal) -> Iterator[Pooled]:
    """Every instruction that is or will be answered, a complicated one in the place of its original."""
    known = lru_cache(REMEMBERED)(journal.record)
    for step in ("instructions", "expansion"):
        for record in journal.records(step):
            shown = next(journal.children(record.id, "complication"), record)
            names = _topics(known, record)
            yield Pooled(shown.data["text"], record.domain, names.get("meta_topics"), names.get("sub_topics"))


def _topics(known: Callable[[str], Record | None], record: Record) -> dict[str, str]:
    """Names of the nearest topics among a record's ancestors, by step."""
    names: dict[str, str] = {}
    waiting, seen = list(record.parents), {record.id}
    while waiting and len(names) < 2:
        identity = waiting.pop(0)
        if identity in seen or (parent := known(identity)) is None:
            continue
        seen.add(identity)
        if "name" in parent.data:
            names.setdefault(parent.step, parent.data["name"])
        waiting.extend(parent.parents)
    return names


class Reservoir(Generic[T]):
    """At most `size` items of a stream, every one with the same chance; those kept stay in the order of the stream
    as long as nothing is left out."""

    def __init__(self, size: int, draw: random.Random) -> None:
        if size < 1:
            raise ValueError(f"per_domain: {size} is below 1; give how many instructions of each domain are looked at")
        self.size, self.kept, self._draw, self._seen = size, list[T](), draw, 0

    def take(self, item: T) -> None:
        """Offer the next item."""
        self._seen += 1
        if len(self.kept) < self.size:
            self.kept.append(item)
        elif (place := self._draw.randrange(self._seen)) < self.size:
            self.kept[place] = item
