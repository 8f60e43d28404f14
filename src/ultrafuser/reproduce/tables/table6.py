"""Table 6: the mean weight that the gate gives each specialist in each domain."""

from __future__ import annotations

from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import Cell, weights_by_domain
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL, GATE
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of

TITLE = "Table 6: mean weight of each specialist in each domain"
STAGES = {ALL: "after stage 2", GATE: "after stage 1"}


def needs(plan: Plan) -> list[Run]:
    """The fused model, both stages."""
    return list(fused_runs(plan))


def make(plan: Plan, results: Results) -> Table:
    """Rows specialists, columns domains: after both stages, then after the first."""
    runs = needs(plan)
    rows = []
    for stage, group in STAGES.items():
        found = [weights_by_domain(items_of(r, stage), plan.columns, plan.specialists) for r in results.all(runs)]
        for place, name in enumerate(plan.specialists):
            cells = {
                column: cell
                for column in plan.columns
                if (cell := Cell.of(one[column][place] for one in found if column in one)) is not None
            }
            rows.append(
                Row(
                    name if stage == ALL else f"{name}@stage1",
                    name,
                    cells,
                    group=group,
                    paper=paper.TABLE_6.get(name, {}) if stage == ALL else {},
                    missing=results.why(runs),
                )
            )
    return Table(
        TITLE,
        "Mean over the response tokens of the held-out items. The gate is never told the domain.",
        [Column(name, name, "share", "high") for name in plan.columns],
        rows,
        paper_columns=[Column(name, name, "share", "high") for name in plan.domains if name in paper.TABLE_6],
        findings=_findings(plan, rows),
        first="specialist",
        best_by_group=True,
    )


def _findings(plan: Plan, rows: list[Row]) -> list[Finding]:
    weights = {row.key: row.cells for row in rows if row.key in plan.specialists and row.cells}
    at_home = [name for name in plan.domains if name in weights]
    if not at_home:
        return []
    wrong = [d for d in at_home if max(weights, key=lambda name: weights[name][d].mean) != d]
    if not wrong:
        listed = ", ".join(f"{weights[d][d].mean:.2f} in {d}" for d in at_home)
        return [Finding("yes", f"After stage 2 the right specialist has the largest weight in every domain: {listed}.")]
    return [Finding("no", f"After stage 2 another specialist has the largest weight in: {', '.join(wrong)}.")]


TABLE = TableSpec(TITLE, needs, make)
