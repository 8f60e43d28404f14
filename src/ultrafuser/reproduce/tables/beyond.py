"""Beyond the paper: other rules, gates, temperatures, starts and second stages, each against the paper's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ultrafuser.recipe import StageConfig
from ultrafuser.reproduce.cells import MEAN, Cell, loss_cells, paired_differences
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.starts import low_rank_run, started_run, tempered_run
from ultrafuser.reproduce.tables import table2
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, Verdict, items_of, loss_columns

TITLE = "Beyond the paper: rule, gate, temperature, start and what learns"
REFERENCE = "reference"
START_LOSS, TRAINED, OPERATIONS = "start", "parameters_trained", "training_operations"
FEW_STEPS, SHARE = 20, 6  # a short first stage: so many steps, or this share of the first stage's where it is short
SAMPLE, NEWTON = 48, 4  # conversations of each domain that a start reads, and its steps
RANK, RATE = 8, 5.0  # of the adapters, and how many times faster than whole weights they learn

VERDICTS: dict[int, tuple[Verdict, str]] = {
    -1: ("yes", "wins over"),
    0: ("even", "is too close to call against"),
    1: ("no", "loses to"),
}


@dataclass(frozen=True)
class Variant:
    """One row: its place, label and note, and the kind of run with its settings."""

    group: str
    label: str
    note: str
    kind: str = "fused"
    settings: Mapping[str, Any] | None = None


def _gate(label: str, note: str, group: str = "what the gate reads", **gate: Any) -> Variant:
    return Variant(group, label, note, settings={"gate": gate})


VARIANTS: dict[str, Variant] = {
    REFERENCE: Variant("", "the paper's way", "logits mixed, token gate, both stages, all weights learn"),
    "probabilities": Variant(
        "rule", "probability mixture", "weighted mean of probabilities", settings={"fusion": {"rule": "probabilities"}}
    ),
    "joint": _gate("joint gate", "one network reads all hidden states together", type="joint"),
    "evidence": _gate(
        "evidence gate", "beside each hidden state: how sure the specialist is, and how far the others agree",
        type="evidence",
    ),
    "temperature_0.5": _gate("temperature 0.5", "the gate's numbers doubled", "temperature", temperature=0.5),
    "temperature_2": _gate("temperature 2", "the gate's numbers halved", "temperature", temperature=2.0),
    "temperature_learned": _gate(
        "learned temperature", "one number that learns with the gate, from 1 on", "temperature", learn_temperature=True
    ),
    "temperature_chosen": Variant(
        "temperature", "temperature chosen afterwards", "the reference, best of nine on the validation data", "chosen"
    ),
    "no_start": Variant("start", "no start", "stage 2 alone, from the random gate", "direct"),
    "short_start": Variant("start", "short stage 1", "a stage 1 of {steps} steps, then stage 2", "short"),
    "closed_form_start": Variant(
        "start", "closed-form start", "ridge regression on {examples} conversations of each domain, then stage 2",
        "started", {"steps": 1},
    ),
    "newton_start": Variant(
        "start", "Newton start", "{newton} Newton steps on {examples} conversations of each domain, then stage 2",
        "started", {"steps": NEWTON},
    ),
    "low_rank": Variant(
        "what learns in stage 2", "low-rank stage 2", f"rank {RANK}, at the same rate", "low_rank", {"rate": 1.0}
    ),
    "low_rank_fast": Variant(
        "what learns in stage 2", "low-rank stage 2, faster", f"rank {RANK}, at {RATE:g} times the rate", "low_rank",
        {"rate": RATE},
    ),
}  # fmt: skip


def short_stage(plan: Plan) -> StageConfig:
    """Stage 1 with a few steps only."""
    gate = plan.open_recipe().stages[0]
    steps = max(1, min(FEW_STEPS, gate.steps // SHARE))
    warmup = min(gate.warmup_steps, steps // 4)
    return gate.model_copy(update={"steps": steps, "warmup_steps": warmup, "eval_every": steps, "save_every": steps})


def sample_size(plan: Plan) -> int:
    """Conversations of each domain that a start reads: no more than a tenth of what stage 1 draws, but eight."""
    gate = plan.open_recipe().stages[0]
    return min(SAMPLE, max(8, gate.steps * gate.examples_per_category // 10))


def runs_of(plan: Plan, key: str) -> list[Run]:
    """The runs of a row, one for each seed."""
    variant, name = VARIANTS[key], f"beyond-{key}"
    settings = dict(variant.settings or {})
    if key == REFERENCE:
        return fused_runs(plan)
    if variant.kind == "direct":
        return table2.runs_of(plan, "direct_full_balanced")
    if variant.kind == "short":
        return fused_runs(plan, name, stages=[short_stage(plan), plan.open_recipe().stages[1]])
    if variant.kind == "chosen":
        return [tempered_run(plan, seed, name) for seed in plan.seeds]
    if variant.kind == "started":
        return [started_run(plan, seed, name, examples=sample_size(plan), **settings) for seed in plan.seeds]
    if variant.kind == "low_rank":
        return [low_rank_run(plan, seed, name, rank=RANK, **settings) for seed in plan.seeds]
    changes = {field: {**plan.recipe[field], **values} for field, values in settings.items()}
    return fused_runs(plan, name, changes=changes)


def needs(plan: Plan) -> list[Run]:
    """Every variant with every seed."""
    return [run for key in VARIANTS for run in runs_of(plan, key)]


def make(plan: Plan, results: Results) -> Table:
    """Rows variants, columns domains, then the loss that stage 2 began with and what was spent."""
    found = {key: results.all(runs_of(plan, key)) for key in VARIANTS}
    reference = [items_of(result, ALL) for result in found[REFERENCE]]
    rows = []
    for key, variant in VARIANTS.items():
        items = [items_of(result, ALL) for result in found[key]]
        differences = {}
        if key != REFERENCE and items and reference:
            differences = paired_differences(items, reference, plan.columns, plan.domains)
        cells = {**loss_cells(items, plan.columns, plan.domains), **_spent(found[key])}
        rows.append(
            Row(
                key,
                variant.label,
                cells,
                _note(plan, variant, found[key]),
                group=variant.group,
                ours=key == REFERENCE,
                differences=differences,
                missing=results.why(runs_of(plan, key)),
            )
        )
    return Table(
        TITLE,
        "Held-out loss in nats per response token, lower is better; the same data and batches, and but for the starts "
        "the same steps. The paper has none of these. Of each training the checkpoint that was best on the validation "
        'data. "Before stage 2" is the validation loss, mean of the domains, that stage 2 began with.',
        [
            *loss_columns(plan),
            Column(START_LOSS, "before stage 2"),
            Column(TRAINED, "parameters trained", "count"),
            Column(OPERATIONS, "training operations", "count"),
        ],
        rows,
        reference="the paper's way",
        findings=_findings(rows),
        first="variant",
    )


def _spent(results: Sequence[Result]) -> dict[str, Cell]:
    """Parameters and operations, and where a stage 2 was trained the loss before it."""
    made = [result["made"][ALL] for result in results]
    found = {key: Cell.of(float(one[key]) for one in made) for key in (TRAINED, OPERATIONS)}
    before = [stage["before"] for r in results for stage in r.get("stages", []) if stage["name"] == ALL]
    found[START_LOSS] = Cell.of(fmean(losses.values()) for losses in before if losses)
    return {key: cell for key, cell in found.items() if cell is not None}


def _note(plan: Plan, variant: Variant, results: Sequence[Result]) -> str:
    note = variant.note.format(steps=short_stage(plan).steps, examples=sample_size(plan), newton=NEWTON)
    chosen = [f"{result['temperature']:g}" for result in results if "temperature" in result]
    return f"{note}; chosen: {', '.join(chosen)}" if chosen else note


def _findings(rows: Sequence[Row]) -> list[Finding]:
    """What each variant does to the mean, by the paired intervals."""
    found = []
    for row in rows:
        gap = row.differences.get(MEAN)
        if gap is None:
            continue
        verdict, word = VERDICTS[gap.sign]
        text = f"{row.label.capitalize()} {word} the paper's way: {gap.mean:+.3f} nats per token on the mean."
        found.append(Finding(verdict, text))
    return found


TABLE = TableSpec(TITLE, needs, make)
