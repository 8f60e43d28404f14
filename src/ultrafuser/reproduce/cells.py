"""The numbers of a table: items read by a model, their loss by domain, mean and deviation over seeds, paired intervals.

A domain's loss is the summed loss of its items over their summed response tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

MEAN = "mean"  # the column of the unweighted mean over the domains
METRIC = "nats"


@dataclass(frozen=True)
class Cell:
    """Mean over `n` values, as a rule one per seed, and their sample deviation: 0 where there is only one value."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Cell | None:
        """The cell of some values; None where there is none."""
        found = list(values)
        return cls(fmean(found), stdev(found) if len(found) > 1 else 0.0, len(found)) if found else None

    def as_dict(self) -> dict[str, float]:
        """Plain JSON."""
        return asdict(self)


class Item(NamedTuple):
    """One held-out item read by one model: summed loss in nats, response tokens, mean weight of each specialist."""

    id: str
    domain: str
    nats: float
    tokens: int
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, row: Sequence[Any]) -> Item:
        """An item out of the JSON list that it was stored as."""
        return cls(row[0], row[1], row[2], row[3], tuple(row[4]))


@dataclass(frozen=True)
class Difference:
    """Mean paired difference with its 95% interval over the items (None for a single item)."""

    mean: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """-1 where the whole interval lies below zero, 1 where it lies above, else 0."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def loss_by_domain(items: Sequence[Item], domains: Sequence[str]) -> dict[str, float]:
    """Nats per response token for each domain that has items, in the order of `domains`."""
    return {
        domain: sum(item.nats for item in rows) / sum(item.tokens for item in rows)
        for domain, rows in _grouped(items, domains).items()
    }


def weights_by_domain(items: Sequence[Item], domains: Sequence[str], names: Sequence[str]) -> dict[str, list[float]]:
    """Mean weight of each specialist over the response tokens of each domain that has items."""
    found = {}
    for domain, rows in _grouped(items, domains).items():
        tokens_I = np.array([item.tokens for item in rows], dtype=float)
        weights_IN = np.array([item.weights for item in rows], dtype=float)
        if weights_IN.ndim != 2 or weights_IN.shape[1] != len(names):
            raise ValueError(f"weights: items of {domain!r} do not hold one weight for each of {', '.join(names)}")
        found[domain] = (tokens_I @ weights_IN / tokens_I.sum()).tolist()
    return found


def loss_cells(runs: Sequence[Sequence[Item]], domains: Sequence[str], averaged: Sequence[str]) -> dict[str, Cell]:
    """A row of losses: per domain the cell over `runs` (one list of items per seed), then that of the mean.

    `averaged` are the domains that the mean is over, each counting the same.
    """
    losses = [loss_by_domain(items, domains) for items in runs]
    cells = {d: Cell.of(one[d] for one in losses if d in one) for d in domains}
    cells[MEAN] = Cell.of(fmean(one[d] for d in averaged) for one in losses if all(d in one for d in averaged))
    return {name: cell for name, cell in cells.items() if cell is not None}


def paired_differences(
    left: Sequence[Sequence[Item]], right: Sequence[Sequence[Item]], domains: Sequence[str], averaged: Sequence[str]
) -> dict[str, Difference]:
    """Loss of `left` less loss of `right` per domain and for the mean over `averaged`, in nats per response token.

    Each side is a list of items per seed; an item's losses are averaged over the seeds first. The intervals are
    percentile bootstraps over items (evaluation.statistics): they speak of other items of this kind, not of other
    seeds. The domains are resampled independently for the mean.
    """
    from ultrafuser.evaluation.statistics import difference_draws

    found: dict[str, Difference] = {}
    draws: dict[str, Any] = {}
    for place, domain in enumerate(domains):
        a, b = _entries(left, domain), _entries(right, domain)
        if not a or not b:
            continue
        mean = _ratio(a) - _ratio(b)
        draws[domain] = difference_draws(a, b, METRIC, seed=[0, place])
        found[domain] = _difference(mean, draws[domain])
    if averaged and all(domain in found for domain in averaged):
        known = [draws[domain] for domain in averaged]
        mean = fmean(found[domain].mean for domain in averaged)
        found[MEAN] = _difference(mean, None if any(one is None for one in known) else np.mean(known, axis=0))
    return found


def _difference(mean: float, draws: Any) -> Difference:
    if draws is None:
        return Difference(mean, None, None)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Difference(mean, float(low), float(high))


def _entries(runs: Sequence[Sequence[Item]], domain: str) -> list[Any]:
    from ultrafuser.evaluation.record import Entry

    return [
        Entry(id=item.id, sample=seed, scores={METRIC: item.nats / item.tokens}, weight=float(item.tokens))
        for seed, items in enumerate(runs)
        for item in items
        if item.domain == domain
    ]


def _ratio(entries: Sequence[Any]) -> float:
    return sum(e.scores[METRIC] * e.weight for e in entries) / sum(e.weight for e in entries)


def _grouped(items: Sequence[Item], domains: Sequence[str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {domain: [] for domain in domains}
    for item in items:
        if item.domain in groups:
            groups[item.domain].append(item)
    return {domain: rows for domain, rows in groups.items() if rows}
