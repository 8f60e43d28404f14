"""Writes `report.html`: one self-contained page of tables, pictures, coloured answers and their honest reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ultrafuser.analysis.colours import colour, mixture
from ultrafuser.analysis.heat import Weighed, heat_map
from ultrafuser.demo.figures import CURVE_COLOURS, CURVE_LABELS, loss_curves
from ultrafuser.demo.reading import findings
from ultrafuser.demo.results import COLUMNS, ByDomain, DemoDetails, DemoResult, Example, Item
from ultrafuser.files import write_whole

METHODS: dict[str, tuple[str, str]] = {
    "uniform": ("uniform mixture", "equal weights, nothing trained"),
    "sample_oracle": ("per-sample oracle", "for each item the specialist with the lowest loss on it: knows the answer"),
    "further_tuned": ("further tuned", "the best single specialist trained on the same examples for the same steps"),
    "uniform_stage2": (
        "uniform, trained",
        "weights held equal, specialists trained as in stage 2: isolates the gate",
    ),
    "stage1": ("fused, stage 1", "only the gate trained"),
    "stage2": ("fused, stage 2", "gate and specialists trained together"),
}


@dataclass(frozen=True)
class Row:
    """One row of the loss table; `best` holds the columns in which it is the lowest of all rows, oracle included."""

    key: str
    label: str
    note: str
    losses: ByDomain
    best: tuple[str, ...] = ()


def loss_rows(result: DemoResult) -> list[Row]:
    """The rows of the loss table: specialists first, the finished fused model last."""
    shipped = result.loss.specialists.items()
    rows = [Row("specialist", f"{name} specialist", "as shipped", losses) for name, losses in shipped]
    for key, (label, note) in METHODS.items():
        note = f"{note} ({result.base})" if key == "further_tuned" else note
        rows.append(Row(key, label, note, getattr(result.loss, key)))
    low = {domain: min(row.losses[domain] for row in rows) for domain in COLUMNS}
    return [replace(row, best=tuple(d for d in COLUMNS if row.losses[d] <= low[d])) for row in rows]


def render_report(result: DemoResult, details: DemoDetails) -> str:
    """The whole page as text; it loads nothing from anywhere."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["nats"] = lambda value: f"{value:.3f}"
    source = resources.files("ultrafuser.demo").joinpath("report.html").read_text(encoding="utf-8")
    rows = loss_rows(result)
    span = {
        domain: (min(row.losses[domain] for row in rows), max(row.losses[domain] for row in rows)) for domain in COLUMNS
    }
    return environment.from_string(source).render(
        result=result,
        columns=COLUMNS,
        rows=rows,
        span=span,
        findings=findings(result),
        colours={name: colour(j) for j, name in enumerate(result.names)},
        curve_legend=[(CURVE_LABELS[name], ink) for name, ink in CURVE_COLOURS.items()],
        curves=Markup(loss_curves(details.curves)),
        heat=Markup(heat_map(_weighed(details.items["stage2"]), result.names)),
        examples=[_coloured(example, result.names) for example in details.examples],
    )


def _weighed(items: Sequence[Item]) -> list[Weighed]:
    return [Weighed(item.id, item.category, item.weights or []) for item in items]


def write_report(path: Path, result: DemoResult, details: DemoDetails) -> None:
    """Write the page whole or not at all."""
    write_whole(path, render_report(result, details))


def _coloured(example: Example, names: list[str]) -> dict[str, Any]:
    tokens = [
        {
            "text": token.text,
            "colour": mixture(token.weights),
            "tip": "  ".join(f"{name} {weight:.2f}" for name, weight in zip(names, token.weights, strict=True)),
        }
        for token in example.tokens
    ]
    return {**example.model_dump(exclude={"tokens"}), "tokens": tokens}
