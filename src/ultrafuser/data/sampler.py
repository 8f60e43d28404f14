"""The order in which examples are drawn: every optimiser batch holds exactly the same number of each category.

It yields single indices, batch after batch, because the Trainer refuses foreign batch samplers: an optimiser batch is
(accumulation x processes x per-device batch) consecutive indices. Each batch is a pure function of (seed, step), so a
resumed run draws what an undisturbed one would. It knows indices only, no tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ultrafuser.lookup import lookup

__all__ = ["SAMPLERS", "ClassBalancedBatchSampler", "FlatBatchSampler", "RandomBatchSampler", "make_sampler"]

Indices = Sequence[int] | np.ndarray


class FlatBatchSampler:
    """Draws `counts[g]` indices of every group per batch, without replacement within an epoch of that group.

    When a group is used up it is shuffled anew; a batch may therefore hold an example twice at the seam, and must when
    `counts[g]` is larger than the group. `lengths` (per index) orders each batch from long to short, so that the
    micro-batches cut from it need little padding; the composition of the batch stays the same. `chunks` is the number
    of micro-batches over all processes; without `lengths` each gets its even share of every group.
    """

    def __init__(
        self,
        groups: Sequence[Indices],
        counts: Sequence[int],
        *,
        steps: int,
        seed: int,
        chunks: int = 1,
        lengths: Indices | None = None,
    ) -> None:
        if len(groups) != len(counts):
            raise ValueError(f"counts: {len(counts)} given for {len(groups)} groups")
        if steps < 1:
            raise ValueError(f"steps: {steps} is below 1")
        if any(count < 1 for count in counts):
            raise ValueError(f"examples_per_category: {min(counts)} is below 1")
        if any(len(group) == 0 for group in groups):
            raise ValueError("data: a category holds no example; every category needs at least one")
        if sum(counts) % chunks:
            raise ValueError(
                f"examples_per_category: a batch of {sum(counts)} examples cannot be cut into {chunks} equal "
                "micro-batches (accumulation x processes); change accumulation or examples_per_category"
            )
        self.groups = [np.asarray(group, dtype=np.int64) for group in groups]
        self.counts = list(counts)
        self.steps = steps
        self.seed = seed
        self.chunks = chunks
        self.lengths = None if lengths is None else np.asarray(lengths)
        self._epoch = lru_cache(maxsize=2 * len(self.groups) + 2)(self._shuffled)

    @property
    def batch_size(self) -> int:
        """Examples in an optimiser batch."""
        return sum(self.counts)

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.steps):
            yield from self.batch(step)

    def batch(self, step: int) -> list[int]:
        """The indices of optimiser batch `step`, a function of (seed, step) alone."""
        drawn = [self._draw(group, step) for group in range(len(self.groups))]
        if self.lengths is None:
            return self._even(drawn).tolist()
        together = np.concatenate(drawn)
        return together[np.argsort(-self.lengths[together], kind="stable")].tolist()

    def _draw(self, group: int, step: int) -> np.ndarray:
        size, count = len(self.groups[group]), self.counts[group]
        start, stop = step * count, (step + 1) * count
        parts = []
        for epoch in range(start // size, (stop - 1) // size + 1):
            first = epoch * size
            parts.append(self._epoch(group, epoch)[max(start - first, 0) : min(stop - first, size)])
        return np.concatenate(parts)

    def _shuffled(self, group: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, group, epoch]).permutation(self.groups[group])

    def _even(self, drawn: list[np.ndarray]) -> np.ndarray:
        """Deals every group out to the chunks in turn; where a count does not divide, to the examples in turn."""
        turn = np.concatenate([np.arange(len(part)) for part in drawn])
        fair = all(count % self.chunks == 0 for count in self.counts)
        order = np.argsort(turn % self.chunks if fair else turn, kind="stable")
        return np.concatenate(drawn)[order]


class ClassBalancedBatchSampler(FlatBatchSampler):
    """Exactly `per_category` examples of every category in every optimiser batch (Ding et al., ACL 2025, section 3).

    `categories` is the category index of each example, `names` what they are called. Warns about a category with fewer
    examples than a batch wants of it; raises ValueError about one with none.
    """

    def __init__(
        self, categories: Indices, per_category: int, *, names: Sequence[str] | None = None, **options: Any
    ) -> None:
        found, names = _categories(categories, names)
        groups = [np.flatnonzero(found == place) for place in range(len(names))]
        for name, group in zip(names, groups, strict=True):
            if len(group) == 0:
                raise ValueError(f"data.{name}: holds no example; a balanced batch needs {per_category} of it")
            if len(group) < per_category:
                _warn_repeats(f"data.{name}", len(group), f"{per_category} of it per batch")
        super().__init__(groups, [per_category] * len(groups), **options)


class RandomBatchSampler(FlatBatchSampler):
    """Batches of the same size drawn from all examples alike: the paper's training without the balanced sampler."""

    def __init__(
        self, categories: Indices, per_category: int, *, names: Sequence[str] | None = None, **options: Any
    ) -> None:
        found, names = _categories(categories, names)
        size = per_category * len(names)
        if len(found) < size:
            _warn_repeats("data", len(found), f"batches of {size}")
        super().__init__([np.arange(len(found))], [size], **options)


def _categories(categories: Indices, names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    found = np.asarray(categories, dtype=np.int64)
    if len(found) == 0:
        raise ValueError("data: no example to draw from")
    return found, list(names) if names is not None else [str(place) for place in range(int(found.max()) + 1)]


def _warn_repeats(field: str, have: int, wanted: str) -> None:
    fix = "lower examples_per_category or give more data"
    warnings.warn(f"{field}: {have} examples for {wanted}: every batch repeats some; {fix}", stacklevel=4)


SAMPLERS: dict[str, type[ClassBalancedBatchSampler] | type[RandomBatchSampler]] = {
    "balanced": ClassBalancedBatchSampler,
    "random": RandomBatchSampler,
}


def make_sampler(name: str, categories: Indices, per_category: int, **options: Any) -> FlatBatchSampler:
    """The sampler of that name (table SAMPLERS); `options` as FlatBatchSampler takes them, and `names`."""
    return lookup(SAMPLERS, name, "sampler")(categories, per_category, **options)
