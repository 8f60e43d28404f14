"""How varied the instructions of a domain are: distinct n-grams, growth of the vocabulary, lengths, topics."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Diversity", "Item", "diversity"]

ORDERS = (1, 2, 3)
POINTS = 60  # of the curve of the vocabulary
_WORD = re.compile(r"\w+(?:'\w+)*")


@dataclass(frozen=True, slots=True)
class Item:
    """One instruction, with the domain and, where known, the topics that it belongs to."""

    text: str
    domain: str
    meta_topic: str | None = None
    sub_topic: str | None = None


@dataclass
class Diversity:
    """Figures of one domain. `distinct` is by n: distinct n-grams among the n-grams of the first `compared` words, so
    that domains of different size can be compared; `evenness` is 1 where all topics have the same number of items."""

    domain: str
    items: int
    words: int
    vocabulary: int
    compared: int
    distinct: dict[int, float]
    growth: list[tuple[int, int]]
    lengths: list[int]
    exact_copies: int
    topics: int
    largest_topic: float | None
    evenness: float | None
    nearest: list[float] = field(default_factory=list)

    @property
    def median_length(self) -> float:
        """Median number of words of an instruction."""
        return median(self.lengths)


def diversity(items: Sequence[Item], seed: int = 0) -> list[Diversity]:
    """The figures by domain, in the order in which the domains come; words are taken in an order drawn by `seed`."""
    by_domain: dict[str, list[Item]] = {}
    for item in items:
        by_domain.setdefault(item.domain, []).append(item)
    words = {domain: _shuffled(found, seed) for domain, found in by_domain.items()}
    compared = min(sum(map(len, texts)) for texts in words.values())
    return [_of_domain(domain, found, words[domain], compared) for domain, found in by_domain.items()]


def _shuffled(items: Sequence[Item], seed: int) -> list[list[str]]:
    texts = [_WORD.findall(item.text.lower()) for item in items]
    random.Random(seed).shuffle(texts)
    return texts


def _of_domain(domain: str, items: list[Item], texts: list[list[str]], compared: int) -> Diversity:
    topics = Counter(item.sub_topic or item.meta_topic for item in items if item.sub_topic or item.meta_topic)
    total = topics.total()
    even = -sum(n / total * math.log(n / total) for n in topics.values()) if total else 0.0
    copies = Counter(" ".join(words) for words in texts)
    return Diversity(
        domain=domain,
        items=len(items),
        words=sum(map(len, texts)),
        vocabulary=len({word for words in texts for word in words}),
        compared=compared,
        distinct={n: _distinct(texts, n, compared) for n in ORDERS},
        growth=_growth(word for words in texts for word in words),
        lengths=[len(item.text.split()) for item in items],
        exact_copies=sum(n - 1 for n in copies.values()),
        topics=len(topics),
        largest_topic=max(topics.values()) / total if total else None,
        evenness=even / math.log(len(topics)) if len(topics) > 1 else None,
    )


def _distinct(texts: Sequence[Sequence[str]], n: int, limit: int) -> float:
    """Share of distinct n-grams among those within the texts of the first `limit` words."""
    seen: set[tuple[str, ...]] = set()
    count = left = 0
    for words in texts:
        if left >= limit:
            break
        words = words[: limit - left]
        left += len(words)
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        seen.update(grams)
        count += len(grams)
    return len(seen) / count if count else 0.0


def _growth(words: Iterable[str]) -> list[tuple[int, int]]:
    """(words read, distinct words among them), thinned out to about POINTS pairs."""
    seen: set[str] = set()
    curve = []
    for word in words:
        seen.add(word)
        curve.append(len(seen))
    step = max(1, len(curve) // POINTS)
    places = sorted({*range(step, len(curve) + 1, step), len(curve)} - {0})
    return [(place, curve[place - 1]) for place in places]
