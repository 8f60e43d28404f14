"""Table 1: the fused model beside its specialists, everything else that could have been done with them, and oracles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ultrafuser.baselines.oracles import best_per_domain, best_per_sample
from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import (
    MEAN,
    Cell,
    Difference,
    Item,
    loss_cells,
    paired_differences,
)
from ultrafuser.reproduce.experiments import UNIFORM, fused_runs, specialists_run
from ultrafuser.reproduce.methods import METHOD
from ultrafuser.reproduce.plan import COMPOSITE, Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.scales import ALL, GATE
from ultrafuser.reproduce.tables import methods_in
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of, loss_columns

TITLE = "Table 1: all methods, all domains"
OURS = "fused_stage2"
PER_DOMAIN, PER_SAMPLE = "best_specialist_per_domain", "best_specialist_per_sample"
GROUPS = (
    "nothing trained",
    "the fused model",
    "rivals at equal data and steps",
    "rivals at the fused model's training operations",
    "oracles: they know the losses",
)
Seeds = list[list[Item]]  # the items of one method, seed by seed


def needs(plan: Plan) -> list[Run]:
    """The specialists, the fused model, every rival, and every rival again at equal operations."""
    methods = methods_in.rivals(plan)
    return [
        specialists_run(plan),
        *fused_runs(plan),
        *(run for method in methods for run in methods_in.runs_of(plan, method)),
        *(run for method in methods for run in methods_in.equal_runs_of(plan, method)),
        *methods_in.tasks_of(plan, _asked(plan)),
    ]


def _asked(plan: Plan) -> list[Run | str]:
    """The models that the benchmarks are asked of: specialists, the fused model, the rivals at equal steps."""
    rivals = [run for method in methods_in.rivals(plan) for run in methods_in.runs_of(plan, method)]
    return [*plan.specialists, *fused_runs(plan), *rivals]


@dataclass(frozen=True)
class _Line:
    """A row that has no numbers yet, and the items that they come from."""

    row: Row
    items: Seeds
    asked: Sequence[Run | str] = ()


def make(plan: Plan, results: Results) -> Table:
    """Rows methods, columns domains; differences are taken against the fused model after stage 2."""
    lines = [line for part in (_specialists, _fused, _rivals, _oracles) for line in part(plan, results)]
    lines.sort(key=lambda line: GROUPS.index(line.row.group))
    ours = next(line.items for line in lines if line.row.key == OURS)
    tasks = {line.row.key: methods_in.task_cells(results.all(methods_in.tasks_of(plan, line.asked))) for line in lines}
    scored = methods_in.task_columns(tasks.values())
    rows = [_numbered(plan, line, ours, tasks[line.row.key]) for line in lines]
    return Table(
        TITLE,
        "Held-out loss in nats per response token, lower is better; trained methods as they were best on the "
        "validation data. Equal data and steps is the paper's rule; below it the same rivals with the fused model's "
        "training operations. Scores of benchmarks, in percent, stand there where some model has more than nothing.",
        [*loss_columns(plan), *scored],
        rows,
        paper_columns=[Column(name, name, "percent") for name in ("text", "code", "math", paper.AVERAGE)],
        paper_text="The paper's figures are scores in percent, higher is better: text is the mean of TruthfulQA and "
        "AlpacaEval, code HumanEval, math the mean of GSM8K, MATH, SAT-Math and AQuA-RAT, and the average that of the "
        "seven columns (for the fused model 47.48 is printed there).",
        reference="the fused model",
        findings=_findings(plan, rows),
        first="method",
    )


def _numbered(plan: Plan, line: _Line, ours: Seeds, tasks: Mapping[str, Cell]) -> Row:
    differences: dict[str, Difference] = {}
    if line.items and ours and line.row.key != OURS:
        differences = paired_differences(line.items, ours, plan.columns, plan.domains)
    cells = loss_cells(line.items, plan.columns, plan.domains)
    return replace(line.row, cells={**cells, **tasks}, differences=differences)


def _specialists(plan: Plan, results: Results) -> Iterator[_Line]:
    run = specialists_run(plan)
    result, why = results.get(run), results.why([run])
    for name in [*plan.specialists, UNIFORM]:
        mixed = name == UNIFORM
        row = Row(
            name,
            "uniform mixture" if mixed else f"{name} specialist",
            note="equal weights at every token" if mixed else "as it is, in its own template",
            group=GROUPS[0],
            paper=methods_in.by_domain(name) if name in paper.TABLE_1 else {},
            missing=why,
        )
        yield _Line(row, [] if result is None else [items_of(result, name)], [] if mixed else [name])


def _fused(plan: Plan, results: Results) -> Iterator[_Line]:
    runs = fused_runs(plan)
    found, why = results.all(runs), results.why(runs)
    note = _cost([one["made"][GATE] for one in found], "only the gate has learnt:")
    yield _Line(
        Row("fused_stage1", "fused, stage 1", note=note, group=GROUPS[1], missing=why),
        [items_of(one, GATE) for one in found],
    )
    note, scores = _cost([one["made"][ALL] for one in found], ""), methods_in.by_domain("UltraFuser")
    yield _Line(
        Row(OURS, "fused, stage 2", note=note, group=GROUPS[1], ours=True, paper=scores, missing=why),
        [items_of(one, ALL) for one in found],
        runs,
    )


def _rivals(plan: Plan, results: Results) -> Iterator[_Line]:
    for method in methods_in.rivals(plan):
        runs, equal = methods_in.runs_of(plan, method), methods_in.equal_runs_of(plan, method)
        found, why = results.all(runs), methods_in.missing(method) or results.why(runs)
        note = _cost([one["made"] for one in found], found[0]["made"]["note"] if found else "")
        scores = methods_in.paper_scores(method)
        yield _Line(Row(method, method, note=note, group=GROUPS[2], paper=scores, missing=why), _items(found), runs)
        again, why = results.all(equal), results.why(equal)
        if _items(again) or why:
            note = _cost([one["made"] for one in again if one["items"]], "")
            yield _Line(Row(f"{method}@operations", method, note=note, group=GROUPS[3], missing=why), _items(again))


def _oracles(plan: Plan, results: Results) -> Iterator[_Line]:
    result = results.get(specialists_run(plan))
    readings = {} if result is None else {name: items_of(result, name) for name in plan.specialists}
    note, scores = "in each column the specialist with the lowest loss in it", methods_in.by_domain("best specialist")
    yield _Line(
        Row(PER_DOMAIN, "best specialist per domain", note=note, group=GROUPS[4], oracle=True, paper=scores),
        [best_per_domain(readings)] if readings else [],
    )
    note = "for each item the specialist with the lowest loss on it: no router of whole samples can do better"
    yield _Line(
        Row(PER_SAMPLE, "best specialist per sample", note=note, group=GROUPS[4], oracle=True),
        [best_per_sample(readings)] if readings else [],
    )


def _items(found: Sequence[Result]) -> Seeds:
    return [items_of(one, METHOD) for one in found if one["items"]]


def _cost(made: Sequence[Mapping[str, float]], note: str) -> str:
    """The note, and what the method took: the mean over seeds."""
    from ultrafuser.reproduce.report import count

    if not made:
        return note
    trained, used = made[0]["parameters_trained"], made[0]["parameters_used"]
    operations = fmean(one["training_operations"] for one in made)
    steps = fmean(one["steps"] for one in made)
    took = f"{count(trained)} trained, {count(used)} used, {steps:.0f} steps, {count(operations)} operations"
    return f"{note} {took}".strip()


def _findings(plan: Plan, rows: Sequence[Row]) -> list[Finding]:
    by_key = {row.key: row for row in rows}
    found = []
    best = by_key[PER_DOMAIN].differences
    if best:
        found.append(_one(best, plan.domains, "the best specialist"))
    sample = by_key[PER_SAMPLE].differences
    if COMPOSITE in sample:
        found.append(_one(sample, [COMPOSITE], "the best specialist for each item"))
    for group in GROUPS[2:4]:
        gaps = {row.label: row.differences[MEAN] for row in rows if row.group == group and MEAN in row.differences}
        if gaps:
            found.append(methods_in.against_all(gaps, group))
    return found


def _one(gaps: Mapping[str, Difference], columns: Sequence[str], rival: str) -> Finding:
    """The fused model against one rival, column by column."""
    parts = {
        "better": [name for name in columns if name in gaps and gaps[name].sign > 0],
        "level": [name for name in columns if name in gaps and gaps[name].sign == 0],
        "worse": [name for name in columns if name in gaps and gaps[name].sign < 0],
    }
    text = "; ".join(
        f"{word} in {', '.join(f'{name} ({-gaps[name].mean:+.3f})' for name in names)}"
        for word, names in parts.items()
        if names
    )
    verdict = "no" if parts["worse"] else "even" if parts["level"] else "yes"
    return Finding(verdict, f"The fused model against {rival}, in nats per token: {text}.")  # type: ignore[arg-type]


TABLE = TableSpec(TITLE, needs, make)
