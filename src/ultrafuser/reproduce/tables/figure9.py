"""Figure 9: what stage 2 does to the weights, and whether the weight goes to who knows the token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ultrafuser.analysis.colours import colour
from ultrafuser.analysis.svg import INK, draw
from ultrafuser.reproduce.cells import Cell, weights_by_domain
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.readings import reading_runs
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.scales import ALL, GATE
from ultrafuser.reproduce.tables.drawing import UNKNOWN, WIDTH
from ultrafuser.reproduce.tables.table import Column, Finding, Picture, Row, Table, TableSpec, items_of

TITLE = "Figure 9: weights after stage 1 and stage 2, and at whose tokens they lie"
STAGES = {GATE: "stage 1", ALL: "stage 2"}
Means = Mapping[str, Sequence[float]]


def needs(plan: Plan) -> list[Run]:
    """The fused model, and its tokens one by one."""
    return [*fused_runs(plan), *reading_runs(plan)]


def make(plan: Plan, results: Results) -> Table:
    """Bars of the mean weights by column and stage; the weight of each token's best, second best ... specialist."""
    found = results.all(fused_runs(plan))
    pictures = []
    if found:
        means = {stage: _means(plan, found, stage) for stage in STAGES}
        svg = draw(lambda axes: _fill(axes, means, plan.columns), TITLE, width=WIDTH)
        legend = [(name, colour(j)) for j, name in enumerate(plan.specialists)]
        pictures.append(Picture("Before and after stage 2.", svg, "Left bar: stage 1; right bar: stage 2.", legend))
    read = results.all(reading_runs(plan))
    ranks = _ranks(len(plan.specialists))
    rows = [
        Row(name, name, _ranked(read, name, ranks), missing=results.why(reading_runs(plan))) for name in plan.columns
    ]
    return Table(
        TITLE,
        "The table: specialists are ranked anew at every token of the held-out answers by the probability that each "
        "alone gives it; the mean weight of the best, the second, ... after stage 2. The gate sees hidden states "
        f"only, never the token. {UNKNOWN}",
        [Column(key, label, "share") for key, label in ranks.items()],
        rows,
        findings=_findings(rows, len(plan.specialists)),
        pictures=pictures,
        first="kind",
    )


def _ranks(count: int) -> dict[str, str]:
    words = ("best at the token", "second", "third", "fourth")
    return {f"rank{j + 1}": words[j] if j < len(words) else f"number {j + 1}" for j in range(count)}


def _ranked(found: Sequence[Result], column: str, ranks: Mapping[str, str]) -> dict[str, Cell]:
    shares = []
    for one in found:
        sums = one["columns"].get(column)
        if sums is not None and sum(sums["ranked"]):
            shares.append([value / sum(sums["ranked"]) for value in sums["ranked"]])
    cells = {key: Cell.of(one[place] for one in shares) for place, key in enumerate(ranks)}
    return {key: cell for key, cell in cells.items() if cell is not None}


def _means(plan: Plan, found: Sequence[Result], stage: str) -> Means:
    by_seed = [weights_by_domain(items_of(one, stage), plan.columns, plan.specialists) for one in found]
    return {c: np.mean([one[c] for one in by_seed], axis=0).tolist() for c in plan.columns if c in by_seed[0]}


def _fill(axes: Any, means: Mapping[str, Means], columns: Sequence[str]) -> None:
    shown = [name for name in columns if all(name in found for found in means.values())]
    for side, found in enumerate(means.values()):
        for place, name in enumerate(shown):
            bottom = 0.0
            for j, weight in enumerate(found[name]):
                at = place + (side - 0.5) * 0.36
                axes.bar(at, weight, 0.32, bottom=bottom, color=colour(j), alpha=0.55 if side == 0 else 1.0)
                bottom += weight
    axes.set_xticks(range(len(shown)), shown)
    axes.set_ylabel("mean weight")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", linewidth=0.4, alpha=0.25, color=INK)


def _findings(rows: Sequence[Row], n: int) -> list[Finding]:
    best = {row.key: row.cells["rank1"].mean for row in rows if "rank1" in row.cells}
    if not best:
        return []
    listed = ", ".join(f"{value:.2f} in {name}" for name, value in best.items())
    verdict = "yes" if all(value > 1 / n for value in best.values()) else "no"
    text = f"The specialist that knows the token best has more than an even share of weight, {1 / n:.2f}: {listed}."
    return [Finding(verdict, text)]  # type: ignore[arg-type]


TABLE = TableSpec(TITLE, needs, make)
