"""Runs side by side: scores, tests on the items they share, averages, the items they differ on. Made for Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultrafuser.evaluation.comparability import comparability_warnings
from ultrafuser.evaluation.differences import differing_items
from ultrafuser.evaluation.record import Run
from ultrafuser.evaluation.showing import show
from ultrafuser.evaluation.statistics import LEVEL, difference_draws, paired, score_draws, summarise
from ultrafuser.evaluation.units import PERCENT, p_text, unit_of
from ultrafuser.lookup import lookup

__all__ = ["Comparison", "compare_runs", "run_names", "show"]


@dataclass(frozen=True)
class Comparison:
    """Tables as plain data; `runs` are the runs' names, `baseline` the one that differences are taken against.

    `benchmarks` holds per name "title", "metric", "higher_is_better", "unit", "scores" (`summarise` per run that has
    it), "against" (`paired` of each other run with the baseline), "leader", "best" (the leader where it is ahead of
    every other run beyond noise, else None), "verdict" (that in words) and "differences" (`differing_items`).
    `average` is over the benchmarks that all runs have and that are scored as shares; `oracle`, with three runs or
    more, takes the best of the runs other than the baseline on each benchmark, knowing the scores.
    """

    runs: list[str]
    baseline: str
    warnings: list[str]
    benchmarks: dict[str, dict[str, Any]]
    average: dict[str, Any] | None
    oracle: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def compare_runs(runs: Sequence[Run], baseline: str | None = None, *, seed: int = 0) -> Comparison:
    """Compare runs; `baseline` is a run's name or folder, the first one where it is None.

    Raises ValueError for no runs, for the same run given twice and for a baseline that is not among them.
    """
    if not runs:
        raise ValueError("runs: none is given; name at least one folder of a run")
    folders = [run.folder.resolve() for run in runs]
    twice = next((folder for number, folder in enumerate(folders) if folder in folders[:number]), None)
    if twice is not None:
        raise ValueError(f"runs: {twice} is given twice; name it once")
    names = run_names(runs)
    base = _baseline(runs, names, baseline)
    by_name = dict(zip(names, runs, strict=True))
    found = dict.fromkeys(benchmark for run in runs for benchmark in run.entries)
    tables = {benchmark: _benchmark(benchmark, by_name, base, seed) for benchmark in found}
    average = _average(tables, by_name, base, seed)
    return Comparison(
        names, base, comparability_warnings(runs, names), tables, average, _oracle(tables, average, names, base)
    )


def run_names(runs: Sequence[Run]) -> list[str]:
    """What tables call the runs: their folders' names, with as much of the path before them as tells them apart."""
    parts = [run.folder.absolute().parts for run in runs]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.folder) for run in runs]


def _baseline(runs: Sequence[Run], names: Sequence[str], wanted: str | None) -> str:
    if wanted is None:
        return names[0]
    for run, name in zip(runs, names, strict=True):
        if run.folder.absolute() == Path(wanted).expanduser().absolute():
            return name
    return lookup({name: name for name in names}, wanted, "baseline")


def _benchmark(benchmark: str, runs: dict[str, Run], base: str, seed: int) -> dict[str, Any]:
    having = {name: run for name, run in runs.items() if benchmark in run.entries}
    about = next(iter(having.values())).settings["benchmarks"][benchmark]
    metric, higher = about["metric"], about["higher_is_better"]
    entries = {name: run.entries[benchmark] for name, run in having.items()}
    scores = {
        name: summarise(rows, metric, pass_at=having[name].summary.get(benchmark, {}).get("pass_at", (1,)), seed=seed)
        for name, rows in entries.items()
    }
    known = {name: one["score"] for name, one in scores.items() if one["score"] is not None}

    def tested(a: str, b: str) -> dict[str, Any]:
        return paired(entries[a], entries[b], metric, higher_is_better=higher, seed=seed)

    against = {name: tested(name, base) for name in entries if name != base and base in entries}
    leader = (max if higher else min)(known, key=lambda name: known[name]) if known else None
    ahead: dict[str, tuple[bool, float | None]] = {}  # of each other run: is it behind beyond noise, and p
    for name in known:
        if leader is not None and name != leader:
            a, b = (name, leader) if leader == base else (leader, name)
            test = against[a] if b == base else tested(a, b)
            ahead[name] = test["better"] == ("b" if leader == base else "a"), test["p"]
    best = leader if ahead and all(beyond for beyond, _ in ahead.values()) else None
    return {
        "title": about.get("title", benchmark),
        "metric": metric,
        "higher_is_better": higher,
        "unit": unit_of(metric, known.values(), higher_is_better=higher),
        "scores": scores,
        "against": against,
        "leader": leader,
        "best": best,
        "verdict": _verdict(leader, known, ahead),
        "differences": differing_items(entries, metric) if len(entries) > 1 else None,
    }


def _verdict(leader: str | None, scores: dict[str, float], ahead: dict[str, tuple[bool, float | None]]) -> str:
    """Which run is ahead, and of which others only within noise.

    To be ahead of all it must pass each test at `LEVEL`; that needs no correction for their number.
    """
    if leader is None:
        return "no run has a score"
    if not ahead:
        return "only one run has it"
    level = [name for name, score in scores.items() if score == scores[leader]]
    if len(level) > 1:
        return f"{' and '.join(level)} have the same best figure"
    within = [f"{name} ({p_text(p)})" for name, (beyond, p) in ahead.items() if not beyond]
    if within:
        return f"{leader} has the best figure, but not beyond noise against {', '.join(within)}"
    return f"{leader} is ahead beyond noise (p < {LEVEL:g} against each other run)"


def _average(tables: dict[str, dict[str, Any]], runs: dict[str, Run], base: str, seed: int) -> dict[str, Any] | None:
    """Unweighted mean over benchmarks, as in the paper's Table 1, with what it is made of and what it leaves out."""
    left_out: dict[str, str] = {}
    for benchmark, table in tables.items():
        without = [name for name in runs if table["scores"].get(name, {}).get("score") is None]
        if without:
            left_out[benchmark] = f"not in {', '.join(without)}"
        elif table["unit"] != PERCENT:
            left_out[benchmark] = "not a share between 0 and 1"
    used = [benchmark for benchmark in tables if benchmark not in left_out]
    if len(used) < 2:
        return None
    scores, against = {}, {}
    for name, run in runs.items():
        draws = [score_draws(run.entries[b], tables[b]["metric"], seed=[seed, i]) for i, b in enumerate(used)]
        mean = float(np.mean([tables[benchmark]["scores"][name]["score"] for benchmark in used]))
        scores[name] = {"score": mean, "ci95": _interval(draws)}
        if name != base:
            against[name] = _average_difference(used, tables, runs, (name, base), seed)
    return {"benchmarks": used, "left_out": left_out, "scores": scores, "against": against}


def _average_difference(
    used: Sequence[str], tables: dict[str, dict[str, Any]], runs: dict[str, Run], pair: tuple[str, str], seed: int
) -> dict[str, Any]:
    """Mean over benchmarks of the differences on shared items; beyond noise where the interval leaves out zero."""
    draws = []
    for number, benchmark in enumerate(used):
        a, b = (runs[name].entries[benchmark] for name in pair)
        draws.append(difference_draws(a, b, tables[benchmark]["metric"], seed=[seed, number]))
    parts = [tables[benchmark]["against"][pair[0]]["difference"] for benchmark in used]
    known = None if any(part is None for part in parts) else float(np.mean(parts))
    interval = _interval(draws)
    better = None
    if interval is not None and known is not None and not interval[0] <= 0 <= interval[1]:
        better = "a" if known > 0 else "b"
    return {"difference": known, "ci95": interval, "better": better}


def _interval(draws: Sequence[np.ndarray | None]) -> list[float] | None:
    """Percentile interval of the mean over benchmarks, which are resampled independently of each other."""
    known = [draw for draw in draws if draw is not None]
    if len(known) < len(draws):
        return None
    low, high = np.quantile(np.mean(known, axis=0), [0.025, 0.975])
    return [float(low), float(high)]


def _oracle(
    tables: dict[str, dict[str, Any]], average: dict[str, Any] | None, names: Sequence[str], base: str
) -> dict[str, Any] | None:
    """The paper's row "best specialist per task", taken from all runs but the baseline; it knows the scores."""
    others = [name for name in names if name != base]
    if len(others) < 2:
        return None
    scores = {}
    for benchmark, table in tables.items():
        known = {name: table["scores"].get(name, {}).get("score") for name in others}
        known = {name: score for name, score in known.items() if score is not None}
        if known:
            best = (max if table["higher_is_better"] else min)(known, key=lambda name: known[name])
            scores[benchmark] = {"run": best, "score": known[best]}
    oracle: dict[str, Any] = {"of": others, "scores": scores, "average": None}
    if average is not None:
        mean = float(np.mean([scores[benchmark]["score"] for benchmark in average["benchmarks"]]))
        means = {name: average["scores"][name]["score"] for name in others}
        single = max(means, key=lambda name: means[name])
        own = average["scores"][base]["score"]
        oracle |= {
            "average": mean,
            "baseline_over_oracle": own / mean if mean else None,
            "best_single": single,
            "baseline_over_best_single": own / means[single] if means[single] else None,
        }
    return oracle
