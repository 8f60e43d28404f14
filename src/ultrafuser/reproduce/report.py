"""The report of a reproduction: one self-contained HTML page, the same as Markdown, and the numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ultrafuser.reproduce.cells import Cell, Difference
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.tables.table import Column, Row, Table

SIGNS = {"yes": "✓", "no": "✗", "even": "≈"}
DASH = "–"


@dataclass(frozen=True)
class Report:
    """All that a report says: the tables by name, what failed (run or table -> why), and facts for its head."""

    plan: Plan
    tables: Mapping[str, Table]
    failures: Mapping[str, str]
    facts: Mapping[str, str]

    def numbers(self) -> dict[str, Any]:
        """{table: {row: {column: {"mean", "sd", "n"}}}}: what `--json` writes."""
        return {name: table.as_dict() for name, table in self.tables.items()}


def number(value: float, unit: str) -> str:
    """A number as the tables write it: losses with three decimals, shares and percent with two, counts by size."""
    if unit == "count":
        return count(value)
    return f"{value:.{ {'nats': 3, 'share': 2, 'percent': 2}[unit] }f}"


def count(value: float) -> str:
    """A large count in short: 2.6 M, 1.4e+13."""
    for size, name in ((1e12, ""), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value:.3g}" if not name else f"{value / size:.3g}{name}"
    return f"{value:.0f}"


def cell_text(cell: Cell | None, unit: str) -> str:
    """Mean, and its deviation over seeds where there are several."""
    if cell is None:
        return DASH
    mean = number(cell.mean, unit)
    return f"{mean} ± {number(cell.sd, unit)}" if cell.n > 1 else mean


def difference_text(difference: Difference | None) -> tuple[str, str]:
    """A paired difference, and its interval where it has one."""
    if difference is None:
        return "", ""
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.3f}", ""
    return f"{difference.mean:+.3f}", f"[{difference.low:+.3f}, {difference.high:+.3f}]"


def render_html(report: Report) -> str:
    """The whole page as text; it loads nothing from anywhere."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("ultrafuser.reproduce").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        blocks=[_block(name, table) for name, table in report.tables.items()],
        signs=SIGNS,
        svg=Markup,
    )


def _block(name: str, table: Table) -> dict[str, Any]:
    """A table as texts: the template only lays it out."""
    spans = {column.key: _span(table, column) for column in table.columns}
    rows, group = [], ""
    for row in table.rows:
        rows.append(
            {
                "row": row,
                "heading": row.group if row.group != group else "",
                "cells": [_cell(table, row, column, spans[column.key]) for column in table.columns],
                "paper": [
                    number(row.paper[column.key], column.unit) if column.key in row.paper else ""
                    for column in table.paper_columns
                ],
            }
        )
        group = row.group
    has_paper = any(row.paper for row in table.rows)
    return {"name": name, "table": table, "rows": rows, "paper": list(table.paper_columns) if has_paper else []}


def _cell(table: Table, row: Row, column: Column, span: tuple[float, float]) -> dict[str, Any]:
    cell, difference = row.cells.get(column.key), row.differences.get(column.key)
    best = table.best(column, row.group)
    low, high = span
    return {
        "text": cell_text(cell, column.unit),
        "best": cell is not None and best is not None and not row.oracle and cell.mean == best,
        "bar": 0.0 if cell is None else 6 + 74 * (cell.mean - low) / (high - low if high > low else 1.0),
        "difference": difference_text(difference)[0],
        "interval": difference_text(difference)[1],
        "sign": 0 if difference is None else difference.sign,
    }


def _span(table: Table, column: Column) -> tuple[float, float]:
    means = [row.cells[column.key].mean for row in table.rows if column.key in row.cells]
    return (min(means), max(means)) if means else (0.0, 1.0)


def render_markdown(report: Report) -> str:
    """The same tables and sentences as Markdown; pictures are in the page only."""
    lines = [f"# Reproduction at scale {report.plan.scale}", ""]
    lines += [f"- {name}: {value}" for name, value in report.facts.items()]
    lines += [f"- failed: {name}: {why}" for name, why in report.failures.items()]
    for table in report.tables.values():
        lines += ["", f"## {table.title}", "", table.text, *_markdown_table(table)]
        if table.paper_text and any(row.paper for row in table.rows):
            lines += ["", table.paper_text]
        lines += ["", *(f"- {SIGNS[f.verdict]} {f.text}" for f in table.findings)] if table.findings else []
        lines += [f"\n*{picture.title}* is in the page. {picture.caption}" for picture in table.pictures]
    return "\n".join(lines) + "\n"


def _markdown_table(table: Table) -> list[str]:
    if not table.rows:
        return []
    papers = list(table.paper_columns) if any(row.paper for row in table.rows) else []
    tested = any(row.differences for row in table.rows)
    head = [table.first, *(c.label for c in table.columns), *(f"paper: {c.label}" for c in papers)]
    head += [f"less {table.reference}" for _ in range(tested)]
    lines = ["", _line(head), _line(["---"] * len(head))]
    group = ""
    for row in table.rows:
        if row.group != group:
            lines.append(_line([f"*{row.group}*", *[""] * (len(head) - 1)]))
            group = row.group
        name = f"**{row.label}**" if row.ours else row.label
        note = "; ".join(part for part in (row.note, f"missing: {row.missing}" if row.missing else "") if part)
        cells = [name + (f" ({note})" if note else "")]
        for column in table.columns:
            cell, best = row.cells.get(column.key), table.best(column, row.group)
            text = cell_text(cell, column.unit)
            won = cell is not None and not row.oracle and cell.mean == best
            cells.append(f"**{text}**" if won else text)
        cells += [number(row.paper[c.key], c.unit) if c.key in row.paper else "" for c in papers]
        if tested:
            cells.append(_differences(table.columns, row.differences))
        lines.append(_line(cells))
    return lines


def _differences(columns: Sequence[Column], differences: Mapping[str, Difference]) -> str:
    found = ((c.label, *difference_text(differences[c.key])) for c in columns if c.key in differences)
    return "; ".join(" ".join(part for part in parts if part) for parts in found)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
