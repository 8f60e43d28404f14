"""Table 2, the ablation: direct training, two stages, and the class-balanced sampler."""

from __future__ import annotations

from collections.abc import Sequence

from ultrafuser.recipe import StageConfig
from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import MEAN, loss_cells, paired_differences
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of, loss_columns

TITLE = "Table 2: direct training, two stages, balanced batches"
BALANCED = "balanced"
LABELS = {
    "direct": (
        "direct",
        "everything learns from the first step on, as many steps as both stages; random batches",
    ),
    "direct_full": ("direct, equal full steps", "as many steps as stage 2 has; random batches"),
    "two_stages": ("+ two stages", "the gate alone first; random batches"),
    BALANCED: ("+ balanced batches", "the paper's method: the fused model of the other tables"),
    "direct_balanced": ("direct, balanced", "as direct, with balanced batches"),
    "direct_full_balanced": ("direct, balanced, equal full steps", "as stage 2 without stage 1"),
}
PAPER = {"direct": "direct", "two_stages": "two stages", BALANCED: "balanced"}


def variants(plan: Plan) -> dict[str, list[StageConfig]]:
    """The stages of each row; every one ends with a stage of the name that its results are kept under."""
    gate, full = plan.open_recipe().stages
    both = gate.steps + full.steps

    def random(*stages: StageConfig) -> list[StageConfig]:
        return [stage.model_copy(update={"sampler": "random"}) for stage in stages]

    long = full.model_copy(update={"steps": both, "eval_every": max(1, both * max(full.eval_every, 1) // full.steps)})
    return {
        "direct": random(long),
        "direct_full": random(full),
        "two_stages": random(gate, full),
        BALANCED: [gate, full],
        "direct_balanced": [long],
        "direct_full_balanced": [full],
    }


def runs_of(plan: Plan, row: str) -> list[Run]:
    """The trainings of a row, one for each seed."""
    if row == BALANCED:
        return fused_runs(plan)
    return fused_runs(plan, f"ablation-{row}", stages=variants(plan)[row])


def needs(plan: Plan) -> list[Run]:
    """Every variant with every seed."""
    return [run for row in LABELS for run in runs_of(plan, row)]


def make(plan: Plan, results: Results) -> Table:
    """Rows variants, columns domains; differences are taken against the paper's method."""
    items = {row: [items_of(result, ALL) for result in results.all(runs_of(plan, row))] for row in LABELS}
    rows = []
    for key, (label, note) in LABELS.items():
        steps = " + ".join(f"{stage.steps} {stage.train}" for stage in variants(plan)[key])
        differences = {}
        if key != BALANCED and items[key] and items[BALANCED]:
            differences = paired_differences(items[key], items[BALANCED], plan.columns, plan.domains)
        rows.append(
            Row(
                key,
                label,
                loss_cells(items[key], plan.columns, plan.domains),
                f"{note} ({steps} steps)",
                ours=key == BALANCED,
                paper=paper.TABLE_2.get(PAPER.get(key, ""), {}),
                differences=differences,
                missing=results.why(runs_of(plan, key)),
            )
        )
    return Table(
        TITLE,
        "Held-out loss in nats per response token, lower is better; of each training the checkpoint that was best on "
        "the validation data. The shipped sample is nearly balanced itself: Table 4 is about data that are not.",
        loss_columns(plan),
        rows,
        paper_columns=[Column(d, f"{d}: {paper.TABLE_2_BENCHMARKS[d]}", "percent") for d in paper.TABLE_2_BENCHMARKS],
        paper_text="The paper's figures are scores in percent, higher is better: best of 12 checkpoints.",
        reference="the paper's method",
        findings=_findings(rows),
        first="training",
    )


def _findings(rows: Sequence[Row]) -> list[Finding]:
    """What two stages and balance did to the mean, by the paired intervals."""
    found = []
    claims = {
        "direct_balanced": "direct training with as many steps as both stages together",
        "direct_full_balanced": "direct training with as many steps as stage 2 has",
        "two_stages": "two stages with random batches",
    }
    for row in rows:
        gap = row.differences.get(MEAN)
        if row.key not in claims or gap is None:
            continue
        numbers = f"{gap.mean:+.3f} nats per token on the mean of the domains"
        against = claims[row.key]
        if gap.sign == 0:
            found.append(Finding("even", f"Too close to call: {against} less the paper's method, {numbers}."))
        else:
            worse = gap.sign > 0
            text = f"The paper's method is {'better' if worse else 'worse'} than {against}, which has {numbers}."
            found.append(Finding("yes" if worse else "no", text))
    return found


TABLE = TableSpec(TITLE, needs, make)
