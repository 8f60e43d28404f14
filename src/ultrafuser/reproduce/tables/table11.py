"""Table 11: what each method trains and uses, and the operations of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ultrafuser.reproduce.cells import Cell
from ultrafuser.reproduce.experiments import fused_runs, specialists_run
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL, GATE
from ultrafuser.reproduce.tables import methods_in
from ultrafuser.reproduce.tables.table import Column, Row, Table, TableSpec

TITLE = "Table 11: parameters trained and used, and training operations"
COLUMNS = {
    "parameters_trained": "parameters trained",
    "parameters_used": "parameters used per token",
    "training_operations": "training operations",
    "steps": "steps",
}


def needs(plan: Plan) -> list[Run]:
    """The runs of Table 1 at equal steps."""
    rivals = [run for method in methods_in.rivals(plan) for run in methods_in.runs_of(plan, method)]
    return [specialists_run(plan), *fused_runs(plan), *rivals]


def make(plan: Plan, results: Results) -> Table:
    """Rows methods, columns counts: means over seeds, since batches differ in length."""
    rows = []
    alone = results.get(specialists_run(plan))
    for name in plan.specialists if alone is not None else []:
        count = {"parameters_trained": 0, "parameters_used": alone["parameters"][name]} if alone else {}
        made = [{**count, "training_operations": 0, "steps": 0}]
        rows.append(Row(name, f"{name} specialist", _cells(made), "as it is"))
    runs = fused_runs(plan)
    for stage, key, label in ((GATE, "fused_stage1", "fused, stage 1"), (ALL, "fused_stage2", "fused, stage 2")):
        made = [result["made"][stage] for result in results.all(runs)]
        rows.append(Row(key, label, _cells(made), ours=stage == ALL, missing=results.why(runs)))
    for method in methods_in.rivals(plan):
        runs = methods_in.runs_of(plan, method)
        made = [result["made"] for result in results.all(runs)]
        why = methods_in.missing(method) or results.why(runs)
        rows.append(Row(method, method, _cells(made), methods_in.summary(method), missing=why))
    return Table(
        TITLE,
        "A product with a matrix counts 2 operations per weight and token, and 4 more backward where the weight "
        "learns; look-ups, attention scores and validation are left out.",
        [Column(key, label, "count") for key, label in COLUMNS.items()],
        rows,
        first="method",
    )


def _cells(made: Sequence[Mapping[str, float]]) -> dict[str, Cell]:
    found = {key: Cell.of(float(one[key]) for one in made) for key in COLUMNS}
    return {key: cell for key, cell in found.items() if cell is not None}


TABLE = TableSpec(TITLE, needs, make)
