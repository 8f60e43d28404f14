"""Figure 1: all methods in all domains at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ultrafuser.analysis.svg import INK, draw
from ultrafuser.reproduce.cells import MEAN
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.tables import table1
from ultrafuser.reproduce.tables.drawing import UNKNOWN, WIDTH, column_colours, legend_of
from ultrafuser.reproduce.tables.table import Picture, Row, Table, TableSpec

TITLE = "Figure 1: all methods at a glance"
REACH = 2.2  # nats above the fused model; what is worse stands at the edge


def needs(plan: Plan) -> list[Run]:
    """Those of Table 1."""
    return list(table1.TABLE.needs(plan))


def make(plan: Plan, results: Results) -> Table:
    """A row of dots for every method of Table 1 at equal data and steps, in the order of the mean."""
    rows = [row for row in table1.make(plan, results).rows if row.group != table1.GROUPS[3] and MEAN in row.cells]
    rows.sort(key=lambda row: row.cells[MEAN].mean)
    ours = next((row for row in rows if row.ours), None)
    pictures = []
    if rows and ours is not None:
        colours = {**column_colours(plan), MEAN: "currentColor"}
        edge = max(cell.mean for name, cell in ours.cells.items() if name in colours) + REACH
        caption = "The lowest mean stands at the top; the thin line is the fused model's mean."
        if any(row.cells[name].mean > edge for row in rows for name in colours if name in row.cells):
            caption += " A triangle: the loss lies beyond the edge."
        svg = draw(lambda axes: _fill(axes, rows, colours, edge), TITLE, width=WIDTH, height=1.0 + 0.26 * len(rows))
        pictures.append(Picture("Held-out loss of every method.", svg, caption, legend_of(colours)))
    return Table(
        TITLE,
        f"The numbers of Table 1 at equal data and steps, in nats per response token, lower is better. {UNKNOWN}",
        pictures=pictures,
    )


def _fill(axes: Any, rows: Sequence[Row], colours: dict[str, str], edge: float) -> None:
    for place, row in enumerate(reversed(rows)):
        shown = {name: row.cells[name].mean for name in colours if name in row.cells}
        inside = [value for value in shown.values() if value <= edge]
        if len(inside) > 1:
            axes.plot([min(inside), max(inside)], [place, place], color=INK, linewidth=0.5, alpha=0.35, zorder=1)
        for name, value in shown.items():
            ink = INK if name == MEAN else colours[name]
            marker = ">" if value > edge else "d" if name == MEAN else "o"
            axes.plot([min(value, edge)], [place], marker=marker, markersize=5.5, color=ink, zorder=2)
        if row.ours:
            axes.axvline(shown[MEAN], color=INK, linewidth=0.6, alpha=0.5)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    for label, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
        label.set_fontweight("bold" if row.ours else "normal")
        label.set_fontstyle("italic" if row.oracle else "normal")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("held-out loss, nats per response token")
    axes.grid(axis="x", linewidth=0.4, alpha=0.25, color=INK)


TABLE = TableSpec(TITLE, needs, make)
