"""Figures over held-out items: token-weighted means, the per-sample oracle, paired bootstrap intervals.

Everything is weighted by response tokens: a domain's loss is the summed loss of its items over their summed tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ultrafuser.demo.results import ByDomain, Difference, Item


def loss_by_domain(items: Sequence[Item]) -> ByDomain:
    """Nats per response token for each category, in the order in which the categories first appear."""
    return {
        category: sum(item.loss_sum for item in rows) / sum(item.n_tokens for item in rows)
        for category, rows in _grouped(items).items()
    }


def mean_over_domains(losses: ByDomain, domains: Sequence[str]) -> float:
    """Unweighted mean of the domains' losses."""
    return sum(losses[domain] for domain in domains) / len(domains)


def weights_by_domain(items: Sequence[Item], names: Sequence[str]) -> dict[str, ByDomain]:
    """Mean gate weight of each specialist over the response tokens of each category."""
    table: dict[str, ByDomain] = {}
    for category, rows in _grouped(items).items():
        tokens = np.array([item.n_tokens for item in rows], dtype=float)
        weights_IN = np.array([item.weights for item in rows], dtype=float)
        if weights_IN.ndim != 2 or weights_IN.shape[1] != len(names):
            raise ValueError(f"weights: items of {category!r} do not hold one weight for each of {list(names)}")
        mean = tokens @ weights_IN / tokens.sum()
        table[category] = {name: float(value) for name, value in zip(names, mean, strict=True)}
    return table


def sample_oracle(by_specialist: Mapping[str, Sequence[Item]]) -> tuple[list[Item], list[str]]:
    """For each item the reading of the specialist with the lowest loss on it, and that specialist's name.

    No router that sends a whole sample to one specialist can do better, since this one knows the answers.
    Ties go to the specialist named first.
    """
    names = list(by_specialist)
    rows = [by_specialist[name] for name in names]
    _check_aligned(rows)
    best: list[Item] = []
    chosen: list[str] = []
    for readings in zip(*rows, strict=True):
        index = min(range(len(readings)), key=lambda j: readings[j].loss_sum)
        best.append(readings[index])
        chosen.append(names[index])
    return best, chosen


def oracle_shares(items: Sequence[Item], chosen: Sequence[str], names: Sequence[str]) -> dict[str, ByDomain]:
    """Share of each category's items that the oracle gives to each specialist."""
    shares: dict[str, ByDomain] = {}
    for category in dict.fromkeys(item.category for item in items):
        picks = [name for item, name in zip(items, chosen, strict=True) if item.category == category]
        shares[category] = {name: picks.count(name) / len(picks) for name in names}
    return shares


def paired_differences(
    left: Sequence[Item], right: Sequence[Item], *, seed: int = 0, draws: int = 2000
) -> dict[str, Difference]:
    """Loss of `left` minus loss of `right` in nats per token by category, with 95% bootstrap intervals.

    The items are drawn again with replacement, both models keeping the same draw: a ratio estimator over items, so
    the interval speaks of other items of this kind, not of other training seeds.
    """
    _check_aligned([left, right])
    rng = np.random.default_rng(seed)
    table: dict[str, Difference] = {}
    for category in dict.fromkeys(item.category for item in left):
        rows = [(a, b) for a, b in zip(left, right, strict=True) if a.category == category]
        gap = np.array([a.loss_sum - b.loss_sum for a, b in rows])
        tokens = np.array([a.n_tokens for a, _ in rows], dtype=float)
        pick_SI = rng.integers(0, len(rows), size=(draws, len(rows)))
        means = gap[pick_SI].sum(axis=1) / tokens[pick_SI].sum(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        table[category] = Difference(mean=float(gap.sum() / tokens.sum()), low=float(low), high=float(high))
    return table


def _grouped(items: Sequence[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.category, []).append(item)
    return groups


def _check_aligned(rows: Sequence[Sequence[Item]]) -> None:
    keys = [[(item.id, item.category, item.n_tokens) for item in row] for row in rows]
    if any(other != keys[0] for other in keys[1:]):
        raise ValueError("items: the models were measured on different items or token counts; measure them again")
