"""Table 3: the loss of each specialist in each domain."""

from __future__ import annotations

from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import loss_cells
from ultrafuser.reproduce.experiments import specialists_run
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of, loss_columns

TITLE = "Table 3: loss of each specialist in each domain"


def needs(plan: Plan) -> list[Run]:
    """The specialists as they come."""
    return [specialists_run(plan)]


def make(plan: Plan, results: Results) -> Table:
    """Rows specialists, columns domains; nothing is trained, so there is one value each."""
    runs = needs(plan)
    result = results.get(runs[0])
    rows = []
    for name in plan.specialists:
        cells = {} if result is None else loss_cells([items_of(result, name)], plan.columns, plan.domains)
        note = "" if result is None else f"{result['parameters'][name]:,} parameters"
        rows.append(
            Row(name, f"{name} specialist", cells, note, paper=paper.TABLE_3.get(name, {}), missing=results.why(runs))
        )
    return Table(
        TITLE,
        "Held-out loss in nats per response token, each specialist in its own template, nothing trained.",
        loss_columns(plan),
        rows,
        paper_columns=[Column(name, name, "nats", "low") for name in plan.domains if name in paper.TABLE_3],
        paper_text="The paper's losses are those of models of 13 billion parameters, on its own data.",
        findings=_findings(plan, rows) if result is not None else (),
        first="specialist",
    )


def _findings(plan: Plan, rows: list[Row]) -> list[Finding]:
    at_home = [name for name in plan.domains if name in plan.specialists]
    if not at_home:
        return []
    losses = {row.key: {name: row.cells[name].mean for name in at_home} for row in rows}
    lost = [name for name in at_home if min(losses, key=lambda other: losses[other][name]) != name]
    if not lost:
        return [Finding("yes", "Each specialist has the lowest loss of all in its own domain, as in the paper.")]
    return [Finding("no", f"Another specialist has a lower loss than the domain's own in: {', '.join(lost)}.")]


TABLE = TableSpec(TITLE, needs, make)
