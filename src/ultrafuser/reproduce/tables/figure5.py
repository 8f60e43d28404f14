"""Figure 5: the training loss of the fused model beside BTX and a fuser of unspecialised copies."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ultrafuser.analysis.svg import INK, draw
from ultrafuser.baselines import BASELINES
from ultrafuser.reproduce.cells import Cell
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.methods import lacking, method_run
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.scales import ALL, GATE
from ultrafuser.reproduce.tables.drawing import WIDTH, dress, mean_curve, plot_smooth, whole_curve
from ultrafuser.reproduce.tables.table import Column, Finding, Picture, Row, Table, TableSpec, Verdict

TITLE = "Figure 5: training loss of the fused model and its rivals"
FUSED = "fused"
INKS = {FUSED: "#c2255c", "btx": "#0c8599", "copies": "#7048e8"}
LABELS = {FUSED: "the fused model", "btx": "BTX", "copies": "LlamaFuser (a fuser of copies of the base)"}
PARTS = {"first": (0.0, 0.1), "quarter": (0.2, 0.3), "half": (0.45, 0.55), "last": (0.9, 1.0)}
PART_LABELS = {"first": "first tenth", "quarter": "at a quarter", "half": "at half", "last": "last tenth"}


def runs_of(plan: Plan, method: str) -> list[Run]:
    """The trainings that a curve is the mean of."""
    if method == FUSED:
        return list(fused_runs(plan))
    if method not in BASELINES or lacking(method):
        return []
    return [method_run(plan, method, seed) for seed in plan.seeds]


def needs(plan: Plan) -> list[Run]:
    """The fused model and the rivals that exist."""
    return [run for method in LABELS for run in runs_of(plan, method)]


def make(plan: Plan, results: Results) -> Table:
    """The curves, and the mean training loss in four stretches of the steps."""
    curves = {
        method: [c for r in results.all(runs_of(plan, method)) if (c := _curve(r, method))[0]] for method in LABELS
    }
    rows = []
    for method, label in LABELS.items():
        runs = runs_of(plan, method)
        why = results.why(runs) if runs else "there is no such baseline here"
        rows.append(Row(method, label, _cells(curves[method]), ours=method == FUSED, missing=why))
    shown = {method: mean_curve(found) for method, found in curves.items() if found}
    pictures = []
    if shown:
        first = plan.open_recipe().stages[0].steps
        svg = draw(lambda axes: _fill(axes, shown, first), TITLE, width=WIDTH)
        caption = "Thin: as it was, mean over seeds; thick: running mean. At the dotted line stage 2 begins."
        legend = [(LABELS[method], INKS[method]) for method in shown]
        pictures.append(Picture("Training loss.", svg, caption, legend))
    return Table(
        TITLE,
        "Mean training loss in nats per response token over stretches of the steps; all see the same batches. In the "
        "paper the fused model's loss falls faster than that of BTX (experts at every linear layer, two of them at a "
        "time) and, at first, than that of a fuser of three unspecialised copies, which ends at a similar level; its "
        "figures are read from a drawing, so none are given.",
        [Column(name, label, "nats", "low") for name, label in PART_LABELS.items()],
        rows,
        findings=_findings(rows),
        pictures=pictures,
        first="method",
    )


def _curve(result: Result, method: str) -> tuple[list[int], list[float]]:
    return whole_curve(result, [GATE, ALL] if method == FUSED else None)


def _cells(found: Sequence[tuple[list[int], list[float]]]) -> dict[str, Cell]:
    cells = {name: Cell.of(part for one in found for part in _part(one, *reach)) for name, reach in PARTS.items()}
    return {name: cell for name, cell in cells.items() if cell is not None}


def _part(curve: tuple[list[int], list[float]], start: float, end: float) -> list[float]:
    """The mean loss between two shares of the steps, both included; empty where no step lies there."""
    steps, losses = curve
    last = steps[-1]
    inside = [loss for step, loss in zip(steps, losses, strict=True) if start * last <= step <= end * last]
    return [fmean(inside)] if inside else []


def _fill(axes: Any, curves: dict[str, tuple[list[int], list[float]]], first: int) -> None:
    for method, (steps, losses) in curves.items():
        plot_smooth(axes, steps, losses, INKS[method])
    axes.axvline(first, color=INK, linewidth=0.6, linestyle=(0, (2, 3)), alpha=0.6)
    dress(axes, "step", "training loss, nats per response token", whole=True)


def _findings(rows: Sequence[Row]) -> list[Finding]:
    """Where the fused model's mean loss is below a rival's, stretch by stretch."""
    ours = next(row.cells for row in rows if row.key == FUSED)
    found = []
    for row in rows:
        gaps = {name: ours[name].mean - row.cells[name].mean for name in PARTS if name in ours and name in row.cells}
        if row.key == FUSED or not gaps:
            continue
        listed = ", ".join(f"{gap:+.3f} {PART_LABELS[name]}" for name, gap in gaps.items())
        below = [gap < 0 for gap in gaps.values()]
        verdict: Verdict = "yes" if all(below) else "even" if any(below) else "no"
        found.append(Finding(verdict, f"The fused model's training loss less that of {row.label}: {listed}."))
    return found


TABLE = TableSpec(TITLE, needs, make)
