"""Saturation: whether more steps would change who wins. The same methods with a quarter and with twice the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ultrafuser.reproduce.cells import MEAN, Difference, loss_cells, paired_differences
from ultrafuser.reproduce.experiments import FUSED, fused_runs
from ultrafuser.reproduce.methods import METHOD, method_run, method_run_with_steps
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.tables.table import (
    Finding,
    Picture,
    Row,
    Table,
    TableSpec,
    items_of,
    loss_columns,
)

TITLE = "Saturation: fewer and more steps"
SHARES = (0.25, 1.0, 2.0)
RIVALS = ("further-tuned", "single", "uniform-trained")  # what the paper's claims hang on, and fusing without a gate


def needs(plan: Plan) -> list[Run]:
    """The fused model and each rival with every share of the steps and every seed."""
    return [run for method in (FUSED, *RIVALS) for share in SHARES for run in runs_of(plan, method, share)]


def runs_of(plan: Plan, method: str, share: float) -> list[Run]:
    """A method with a share of the scale's steps, for every seed; the whole share is the run of the other tables."""
    if method == FUSED:
        if share == 1.0:
            return fused_runs(plan)
        stages = [_scaled(stage, share) for stage in plan.open_recipe().stages]
        return fused_runs(plan, f"{FUSED}@{share:g}-steps", stages=stages)
    if share == 1.0:
        return [method_run(plan, method, seed) for seed in plan.seeds]
    return [method_run_with_steps(plan, method, seed, _steps(plan, share)) for seed in plan.seeds]


def _scaled(stage: Any, share: float) -> Any:
    """The stage with a share of its steps, looked at as often."""
    steps = max(1, round(stage.steps * share))
    changes = {
        "steps": steps,
        "warmup_steps": min(stage.warmup_steps, steps - 1),
        "eval_every": max(1, round(stage.eval_every * share)),
        "save_every": max(1, round(stage.save_every * share)),
    }
    return stage.model_copy(update=changes)


def _steps(plan: Plan, share: float) -> int:
    return sum(_scaled(stage, share).steps for stage in plan.open_recipe().stages)


def make(plan: Plan, results: Results) -> Table:
    """A group of rows for every share; differences are taken against the fused model with the same share."""
    rows, gaps = [], {}
    for share in SHARES:
        found = {method: _items(plan, results, method, share) for method in (FUSED, *RIVALS)}
        for method, items in found.items():
            differences: Mapping[str, Difference] = {}
            if method != FUSED and items and found[FUSED]:
                differences = paired_differences(items, found[FUSED], plan.columns, plan.domains)
                gaps[method, share] = differences[MEAN]
            rows.append(
                Row(
                    f"{method}@{share:g}",
                    method,
                    loss_cells(items, plan.columns, plan.domains),
                    group=f"{_steps(plan, share)} steps",
                    ours=method == FUSED,
                    differences=differences,
                    missing=results.why(runs_of(plan, method, share)),
                )
            )
    return Table(
        TITLE,
        "Held-out loss in nats per response token, lower is better; each training with its own schedule over so many "
        "steps (the fused model's over both stages), as it was best on the validation data.",
        loss_columns(plan),
        rows,
        reference="the fused model with as many steps",
        findings=[finding for method in RIVALS if (finding := _finding(method, gaps)) is not None],
        pictures=_pictures(plan, rows),
        first="method",
        best_by_group=True,
    )


def _items(plan: Plan, results: Results, method: str, share: float) -> list[list[Any]]:
    name = ALL if method == FUSED else METHOD
    return [items_of(result, name) for result in results.all(runs_of(plan, method, share))]


def _finding(method: str, gaps: Mapping[tuple[str, float], Difference]) -> Finding | None:
    """Whether the fused model leads a rival whatever the steps; None where a share is missing."""
    found = [gaps[method, share] for share in SHARES if (method, share) in gaps]
    if len(found) < len(SHARES):
        return None
    behind = [gap.sign for gap in found]
    verdict = "yes" if min(behind) > 0 else "no" if min(behind) < 0 else "even"
    leads = ", ".join(f"{gap.mean:+.3f}" for gap in found)
    shares = ", ".join(f"{share:g}" for share in SHARES)
    text = f"{method} less the fused model on the mean of the domains with {shares} times the steps: {leads} nats."
    return Finding(verdict, text)  # type: ignore[arg-type]


def _pictures(plan: Plan, rows: Sequence[Row]) -> list[Picture]:
    """Mean loss over steps, a line for each method, with the deviation over seeds."""
    from ultrafuser.analysis.svg import draw

    if not any(MEAN in row.cells for row in rows):
        return []

    def fill(axes: Any) -> None:
        for method in (FUSED, *RIVALS):
            cells = {s: row.cells[MEAN] for s in SHARES for row in rows if row.key == f"{method}@{s:g}" and row.cells}
            steps = [_steps(plan, share) for share in cells]
            means, deviations = [c.mean for c in cells.values()], [c.sd for c in cells.values()]
            axes.errorbar(steps, means, yerr=deviations, marker="o", capsize=3, label=method)
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel("nats per response token")
        axes.legend(frameon=False)

    title = "Mean held-out loss of the domains over steps"
    return [Picture(title, draw(fill, title), "Bars are the sample deviation over seeds.")]


TABLE = TableSpec(TITLE, needs, make)
