"""Figure 7: how the weights change along an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ultrafuser.analysis.svg import draw
from ultrafuser.reproduce.cells import Cell
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.readings import PARTS, reading_runs
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.tables.drawing import UNKNOWN, WIDTH, column_colours, dress, legend_of
from ultrafuser.reproduce.tables.table import Column, Picture, Row, Table, TableSpec

TITLE = "Figure 7: weight of the right specialist along an answer"
SHOWN = {"start": 0, "middle": PARTS // 2, "end": PARTS - 1}
LABELS = {"start": "first tenth", "middle": "sixth tenth", "end": "last tenth"}


def needs(plan: Plan) -> list[Run]:
    """The fused model read token by token."""
    return reading_runs(plan)


def make(plan: Plan, results: Results) -> Table:
    """A line per domain: the mean weight of the specialist of its name, by tenth of the answer."""
    found = results.all(needs(plan))
    colours = {d: ink for d, ink in column_colours(plan).items() if d in plan.specialists}
    profiles = {domain: [p for one in found if (p := profile(one, domain)) is not None] for domain in colours}
    pictures = []
    if any(profiles.values()):
        svg = draw(lambda axes: _fill(axes, profiles, colours), TITLE, width=WIDTH)
        pictures.append(Picture("By position.", svg, "Mean over tokens and seeds.", legend_of(colours)))
    rows = [
        Row(
            domain,
            domain,
            {
                name: cell
                for name, place in SHOWN.items()
                if (cell := Cell.of(one[place] for one in rows if not np.isnan(one[place]))) is not None
            },
            missing=results.why(needs(plan)),
        )
        for domain, rows in profiles.items()
    ]
    text = (
        "Every held-out answer is cut into ten parts of equal length; in each the mean weight of the specialist that "
        f"bears the domain's name. {UNKNOWN}"
    )
    columns = [Column(name, label, "share") for name, label in LABELS.items()]
    return Table(TITLE, text, columns, rows, pictures=pictures, first="domain")


def profile(result: Result, domain: str) -> Sequence[float] | None:
    """The right specialist's mean weight by tenth of the answers (nan where no token lies); None without items."""
    sums = result["columns"].get(domain)
    if sums is None:
        return None
    tokens, weights = np.array(sums["tokens"]), np.array(sums["weights"])
    right = weights[:, result["specialists"].index(domain)]
    return list(np.divide(right, tokens, out=np.full(len(tokens), np.nan), where=tokens > 0))


def _fill(axes: Any, profiles: Mapping[str, Sequence[Sequence[float]]], colours: Mapping[str, str]) -> None:
    at = (np.arange(PARTS) + 0.5) * 100 / PARTS
    for domain, rows in profiles.items():
        if rows:
            mean = np.nanmean(np.array(rows), axis=0)
            axes.plot(at, mean, color=colours[domain], marker="o", markersize=4, linewidth=1.6)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1)
    dress(axes, "position in the answer, per cent", "weight of the right specialist")


TABLE = TableSpec(TITLE, needs, make)
