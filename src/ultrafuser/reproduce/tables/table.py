"""What a table of the reproduction is: columns, rows of cells, the paper's figures beside them, what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ultrafuser.reproduce.cells import Cell, Difference
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run

Better = Literal["low", "high"] | None
Verdict = Literal["yes", "no", "even"]
Unit = Literal["nats", "share", "percent", "count"]


@dataclass(frozen=True)
class Column:
    """A column of cells; `better` marks the best one, `unit` says how numbers are written."""

    key: str
    label: str
    unit: Unit = "nats"
    better: Better = None


@dataclass(frozen=True)
class Row:
    """A row. `key` is its name in the JSON; `paper` holds the paper's figures by paper column; `differences` those of
    paired tests against the table's `reference`; `group` heads the rows that follow with the same one.
    """

    key: str
    label: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    note: str = ""
    group: str = ""
    ours: bool = False
    oracle: bool = False
    paper: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Finding:
    """One claim put to the test by the numbers: yes, no or even (too close to call), and the sentence that says so."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Picture:
    """A figure: an inline SVG with its caption, and a legend of (label, colour)."""

    title: str
    svg: str
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """A table or figure ready to be shown. `paper_columns` stand beside ours; `reference` names the row that the
    paired differences are taken against.
    """

    title: str
    text: str
    columns: Sequence[Column] = ()
    rows: Sequence[Row] = ()
    paper_columns: Sequence[Column] = ()
    paper_text: str = ""
    reference: str = ""
    findings: Sequence[Finding] = ()
    pictures: Sequence[Picture] = ()
    first: str = "model"
    best_by_group: bool = False

    def as_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """{row: {column: {"mean", "sd", "n"}}}: what is shown, and no more."""
        keys = [column.key for column in self.columns]
        cells = {row.key: {key: row.cells[key].as_dict() for key in keys if key in row.cells} for row in self.rows}
        return {row: found for row, found in cells.items() if found}

    def best(self, column: Column, group: str = "") -> float | None:
        """The best mean of a column among the rows that are no oracle, or those of a group; None without a contest."""
        rows = [row for row in self.rows if not row.oracle and (not self.best_by_group or row.group == group)]
        means = [row.cells[column.key].mean for row in rows if column.key in row.cells]
        if column.better is None or len(means) < 2:
            return None
        return min(means) if column.better == "low" else max(means)


@dataclass(frozen=True)
class TableSpec:
    """A row of TABLES: which runs it needs, and how it is made of their results. Both see the plan."""

    title: str
    needs: Callable[[Plan], list[Run]]
    make: Callable[[Plan, Results], Table]


def loss_columns(plan: Plan) -> list[Column]:
    """A column of losses for every domain and kind of held-out data, then the mean over the domains."""
    from ultrafuser.reproduce.cells import MEAN

    columns = [Column(name, name, "nats", "low") for name in plan.columns]
    return [*columns, Column(MEAN, "mean", "nats", "low")]


def items_of(result: Mapping[str, Any], name: str) -> list[Any]:
    """The items that a run stored under a name."""
    from ultrafuser.reproduce.cells import Item

    return [Item.of(row) for row in result["items"][name]]
