"""Table 8: a specialist tuned further on its own domain's data alone."""

from __future__ import annotations

from collections.abc import Sequence

from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import MEAN, Item, loss_cells, paired_differences
from ultrafuser.reproduce.experiments import fused_runs, specialists_run
from ultrafuser.reproduce.methods import METHOD, method_run
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.tables import methods_in
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of, loss_columns

TITLE = "Table 8: specialists tuned on their own domain's data"
OURS = "fused_stage2"
FORMS = ("as it is", "tuned on its own domain's data", "tuned on all the data")


def names(plan: Plan) -> list[str]:
    """The specialists that have a domain of their own."""
    return [name for name in plan.specialists if name in plan.domains]


def runs_of(plan: Plan, name: str, form: str) -> list[Run]:
    """The runs behind one row."""
    if form == FORMS[0]:
        return [specialists_run(plan)]
    variant = f"{name}/{name}" if form == FORMS[1] else name
    return [method_run(plan, f"further-tuned:{variant}", seed) for seed in plan.seeds]


def needs(plan: Plan) -> list[Run]:
    """Each specialist as it is and tuned in both ways, and the fused model."""
    return [*fused_runs(plan), *(run for name in names(plan) for form in FORMS for run in runs_of(plan, name, form))]


def make(plan: Plan, results: Results) -> Table:
    """Rows specialists in three forms, then the fused model, which the differences are taken against."""
    ours = [items_of(result, ALL) for result in results.all(fused_runs(plan))]
    rows = []
    for name in names(plan):
        for form in FORMS:
            runs = runs_of(plan, name, form)
            items = [items_of(r, name if form == FORMS[0] else METHOD) for r in results.all(runs)]
            rows.append(_row(plan, name, form, items, ours, results.why(runs)))
    score = {paper.AVERAGE: paper.scores("UltraFuser")[paper.AVERAGE]}
    cells, why = loss_cells(ours, plan.columns, plan.domains), results.why(fused_runs(plan))
    rows.append(Row(OURS, "fused, stage 2", cells, group="the fused model", ours=True, paper=score, missing=why))
    return Table(
        TITLE,
        "Held-out loss in nats per response token, lower is better; batches of the same size and as many steps as the "
        "fused model has, the checkpoint that was best on the validation data of all domains.",
        loss_columns(plan),
        rows,
        paper_columns=[Column(paper.AVERAGE, paper.AVERAGE, "percent", "high")],
        paper_text="The paper's figures are averages of seven scores in percent, higher is better; it gives subset "
        "tuning for code and math.",
        reference="the fused model",
        findings=_findings(plan, results, ours, rows),
        first="model",
    )


def _row(plan: Plan, name: str, form: str, items: Sequence[list[Item]], ours: Sequence[list[Item]], why: str) -> Row:
    known = {
        FORMS[0]: paper.scores(name)[paper.AVERAGE] if name in paper.TABLE_1 else None,
        FORMS[1]: paper.SUBSET_TUNED.get(name),
        FORMS[2]: paper.FURTHER_TUNED.get(name),
    }[form]
    differences = paired_differences(items, ours, plan.columns, plan.domains) if items and ours else {}
    key = {FORMS[0]: name, FORMS[1]: f"{name}/{name}", FORMS[2]: f"{name}/all"}[form]
    return Row(
        key,
        form,
        loss_cells(items, plan.columns, plan.domains),
        group=f"{name} specialist",
        paper={} if known is None else {paper.AVERAGE: known},
        differences=differences,
        missing=why,
    )


def _findings(plan: Plan, results: Results, ours: Sequence[list[Item]], rows: Sequence[Row]) -> list[Finding]:
    """Does a domain's own data help its specialist there, and is the fused model ahead of it over all domains."""
    at_home: dict[str, float] = {}
    signs = []
    for name in names(plan):
        before = [items_of(r, name) for r in results.all(runs_of(plan, name, FORMS[0]))]
        after = [items_of(r, METHOD) for r in results.all(runs_of(plan, name, FORMS[1]))]
        if before and after:
            gap = paired_differences(after, before, [name], [])[name]
            at_home[name] = gap.mean
            signs.append(gap.sign)
    found = []
    if at_home:
        listed = ", ".join(f"{gap:+.3f} in {name}" for name, gap in at_home.items())
        verdict = "yes" if all(s < 0 for s in signs) else "no" if any(s > 0 for s in signs) else "even"
        text = f"Its own domain's data lower the specialist's loss there, in nats per token: {listed}."
        found.append(Finding(verdict, text))  # type: ignore[arg-type]
    gaps = {row.group: row.differences[MEAN] for row in rows if row.label == FORMS[1] and MEAN in row.differences}
    if gaps:
        found.append(methods_in.against_all(gaps, "specialists tuned on their own domain's data"))
    return found


TABLE = TableSpec(TITLE, needs, make)
