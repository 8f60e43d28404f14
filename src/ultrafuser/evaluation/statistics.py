"""Scores with their uncertainty: bootstrap and exact intervals, pass@k, paired tests. The resampling is SciPy's.

Intervals speak of other items of this kind. They know nothing of other training seeds, of wording of the prompts, or
of how well the benchmark's items stand for its subject.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ultrafuser.evaluation.units import RATINGS

if TYPE_CHECKING:
    from ultrafuser.evaluation.record import Entry

__all__ = ["LEVEL", "RESAMPLES", "difference_draws", "paired", "pass_at_k", "score_draws", "score_of", "summarise"]

RESAMPLES = 10_000
LEVEL = 0.05  # a difference whose p value is below this is called beyond noise
BATCH_CELLS = 1_000_000  # resamples are drawn in batches of about this many numbers, to bound memory
Floats = np.ndarray
Seed = int | Sequence[int]


@dataclass(frozen=True)
class _Items:
    """Per item: its id, and what it adds above (weight x score, samples averaged) and below (weight) the line."""

    ids: list[str]
    above: Floats
    below: Floats

    @property
    def values(self) -> Floats:
        return self.above / self.below

    @property
    def score(self) -> float:
        return float(self.above.sum() / self.below.sum())

    def binary(self, metric: str) -> bool:
        """Whether every item is simply right or wrong and all count alike. Ratings are not: 1 of 10 is not right."""
        plain = metric not in RATINGS and bool(np.isin(self.values, (0.0, 1.0)).all())
        return plain and bool((self.below == self.below[0]).all())

    def pick(self, ids: Sequence[str]) -> _Items:
        place = {id: index for index, id in enumerate(self.ids)}
        rows = [place[id] for id in ids]
        return _Items(list(ids), self.above[rows], self.below[rows])


def score_of(entry: Entry, metric: str) -> float | None:
    """The entry's score, or None where it has none that counts: missing, not finite, or of no weight."""
    value = entry.scores.get(metric)
    return None if value is None or not math.isfinite(value) or not entry.weight > 0 else float(value)


def summarise(entries: Sequence[Entry], metric: str, *, pass_at: Sequence[int] = (1,), seed: int = 0) -> dict[str, Any]:
    """Score of one benchmark in one run, as plain data.

    "score" is the weighted mean over items, the samples of an item averaged first: weights are `Entry.weight`, so that
    a loss weighted by tokens is summed loss over summed tokens. "ci95" is the percentile bootstrap over items
    (`RESAMPLES` draws from `seed`); it is None, and "note" says why, where there are fewer than two items. Where items
    are simply right or wrong, "exact95" is the Clopper-Pearson interval beside it, which keeps its width at 0 of 40.
    "n" counts items. "also" holds the other metrics, and pass@k for each k of `pass_at` where there are several
    samples; "groups" the sub-scores; "counts" what a reader must know before believing the score.
    """
    summary = {"metric": metric, **_estimate(_items(entries, metric), metric, seed)}
    summary["seconds"] = sum(entry.seconds for entry in entries)
    others = sorted({name for entry in entries for name in entry.scores} - {metric})
    summary["also"] = {name: _estimate(_items(entries, name), name, seed) for name in others}
    for k in pass_at:
        if f"pass@{k}" not in {metric, *others} and _several_samples(entries, metric):
            summary["also"][f"pass@{k}"] = _pass_at(entries, metric, k, seed)
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.group is not None:
            groups.setdefault(entry.group, []).append(entry)
    summary["groups"] = {name: _estimate(_items(rows, metric), metric, seed) for name, rows in groups.items()}
    summary["counts"] = _counts(entries, metric)
    return summary


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that one of k samples drawn from these is correct: 1 - C(n-c, k) / C(n, k), as a stable product.

    Unbiased estimator of Chen et al., 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@k: {correct} correct of {samples} samples and k = {k}; k must lie in 1..{samples}")
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


def paired(
    entries_a: Sequence[Entry],
    entries_b: Sequence[Entry],
    metric: str,
    *,
    higher_is_better: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Two runs on the items that both have: "difference" is score of A minus score of B, with its "ci95" and "p".

    The interval is the percentile bootstrap over pairs. "p" is two-sided: McNemar's exact test where every item is
    right or wrong on one sample ("table" counts the four cases), else a permutation test that swaps the two runs
    item by item. "better" is "a" or "b" where p is below `LEVEL`, else None.
    """
    left, right = _items(entries_a, metric), _items(entries_b, metric)
    both, only_a, only_b = _shared(left, right)
    result: dict[str, Any] = {"metric": metric, "n": len(both), "only_in_a": only_a, "only_in_b": only_b}
    if not both:
        return result | {"difference": None, "ci95": None, "p": None, "test": None, "better": None}
    left, right = left.pick(both), right.pick(both)
    result |= {"score_a": left.score, "score_b": right.score, "difference": left.score - right.score}
    result["ci95"], _ = _resample(_difference, (left.above, left.below, right.above, right.below), seed)
    single = not _several_samples(entries_a, metric) and not _several_samples(entries_b, metric)
    if single and left.binary(metric) and right.binary(metric):
        result |= _mcnemar(left.values == 1, right.values == 1)
    else:
        result |= {"p": _permutation(left, right, seed), "test": "permutation"}
    ahead = "a" if (result["difference"] > 0) == higher_is_better else "b"
    result["better"] = ahead if result["p"] < LEVEL and result["difference"] != 0 else None
    return result


def score_draws(entries: Sequence[Entry], metric: str, *, seed: Seed = 0) -> Floats | None:
    """The score on `RESAMPLES` bootstrap resamples of its items; None with fewer than two."""
    items = _items(entries, metric)
    return _resample(_ratio, (items.above, items.below), seed)[1]


def difference_draws(a: Sequence[Entry], b: Sequence[Entry], metric: str, *, seed: Seed = 0) -> Floats | None:
    """Score of A minus score of B on `RESAMPLES` resamples of the items that both have; None with fewer than two."""
    left, right = _items(a, metric), _items(b, metric)
    both, _, _ = _shared(left, right)
    left, right = left.pick(both), right.pick(both)
    return _resample(_difference, (left.above, left.below, right.above, right.below), seed)[1]


def _items(entries: Iterable[Entry], metric: str) -> _Items:
    samples: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        score = score_of(entry, metric)
        if score is not None:
            samples.setdefault(entry.id, []).append((entry.weight * score, entry.weight))
    means = np.array([np.mean(rows, axis=0) for rows in samples.values()], dtype=float).reshape(-1, 2)
    return _Items(list(samples), means[:, 0], means[:, 1])


def _several_samples(entries: Iterable[Entry], metric: str) -> bool:
    scored = [entry.id for entry in entries if score_of(entry, metric) is not None]
    return len(set(scored)) < len(scored)


def _estimate(items: _Items, metric: str, seed: Seed) -> dict[str, Any]:
    n = len(items.ids)
    if n == 0:
        return {"score": None, "ci95": None, "n": 0, "note": "no answer has this score"}
    interval, _ = _resample(_ratio, (items.above, items.below), seed)
    result: dict[str, Any] = {"score": items.score, "ci95": interval, "n": n}
    if items.binary(metric):
        result["exact95"] = _clopper_pearson(round(float(items.values.sum())), n)
    if interval is None:
        result["note"] = "one item: no bootstrap interval"
    elif interval[0] == interval[1]:
        result["note"] = "all items score the same: the bootstrap sees no spread"
    return result


def _pass_at(entries: Sequence[Entry], metric: str, k: int, seed: Seed) -> dict[str, Any]:
    """pass@k over the items that have at least k samples."""
    outcomes: dict[str, list[bool]] = {}
    for entry in entries:
        score = score_of(entry, metric)
        if score is not None:
            outcomes.setdefault(entry.id, []).append(score == 1)
    enough = {id: rows for id, rows in outcomes.items() if len(rows) >= k}
    values = np.array([pass_at_k(len(rows), sum(rows), k) for rows in enough.values()], dtype=float)
    result = _estimate(_Items(list(enough), values, np.ones_like(values)), metric, seed)
    if len(enough) < len(outcomes):
        result["note"] = f"{len(outcomes) - len(enough)} of {len(outcomes)} items have fewer than {k} samples"
    return result


def _counts(entries: Sequence[Entry], metric: str) -> dict[str, Any]:
    answered = [entry for entry in entries if entry.answers]
    return {
        "answers": len(entries),
        "unfinished": sum(not entry.finished for entry in answered),
        "nothing_extracted": sum(entry.extracted is None or not entry.extracted.strip() for entry in answered),
        "flagged": sum(bool(entry.detail.get("flagged")) for entry in entries),
        "unscored": sum(score_of(entry, metric) is None for entry in entries),
        "mean_tokens": sum(entry.tokens for entry in entries) / len(entries) if entries else None,
    }


def _shared(left: _Items, right: _Items) -> tuple[list[str], int, int]:
    others, own = set(right.ids), set(left.ids)
    both = [id for id in left.ids if id in others]
    return both, len(own) - len(both), len(others) - len(both)


def _ratio(above: Floats, below: Floats, axis: int = -1) -> Floats:
    return above.sum(axis) / below.sum(axis)


def _difference(above_a: Floats, below_a: Floats, above_b: Floats, below_b: Floats, axis: int = -1) -> Floats:
    return above_a.sum(axis) / below_a.sum(axis) - above_b.sum(axis) / below_b.sum(axis)


def _resample(
    statistic: Callable[..., Floats], columns: tuple[Floats, ...], seed: Seed
) -> tuple[list[float] | None, Floats | None]:
    """Percentile interval of a statistic of columns that belong together item by item, and its distribution."""
    from scipy.stats import bootstrap

    n = len(columns[0])
    if n < 2:
        return None, None
    result = bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_CELLS // n),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return [float(low), float(high)], result.bootstrap_distribution


def _clopper_pearson(right: int, n: int) -> list[float]:
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(confidence_level=0.95, method="exact")
    return [float(interval.low), float(interval.high)]


def _mcnemar(a: Floats, b: Floats) -> dict[str, Any]:
    from scipy.stats import binomtest

    table = {
        "both": int((a & b).sum()),
        "only_a": int((a & ~b).sum()),
        "only_b": int((~a & b).sum()),
        "neither": int((~a & ~b).sum()),
    }
    split = table["only_a"] + table["only_b"]
    p = float(binomtest(table["only_a"], split).pvalue) if split else 1.0
    return {"p": p, "test": "McNemar, exact", "table": table}


def _permutation(left: _Items, right: _Items, seed: Seed) -> float:
    """Swaps what the runs of a pair add to their own score: exact for equal weights, else nearly so."""
    from scipy.stats import permutation_test

    shares = (left.above / left.below.sum(), right.above / right.below.sum())
    if len(left.ids) < 2:
        return 1.0
    result = permutation_test(
        shares,
        lambda a, b, axis=-1: (a - b).sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES - 1,
        batch=max(1, BATCH_CELLS // len(left.ids)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
