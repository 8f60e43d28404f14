"""Table 9: the fused model trained on other conversations; without any, on less of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import MEAN, loss_cells, paired_differences
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.subsets import subset_runs
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of, loss_columns

TITLE = "Table 9: other training data"
OWN = "own"
SHARES = {"quarter": 1 / 4, "half": 1 / 2}
LABELS = {
    OWN: "the data of the other tables",
    "matched": "other data, as many conversations",
    "all": "other data, all of them",
    "quarter": "a quarter of the data",
    "half": "half of the data",
}


def runs_of(plan: Plan, row: str) -> list[Run]:
    """The trainings of a row, one for each seed."""
    if row == OWN:
        return list(fused_runs(plan))
    if row in SHARES:
        return subset_runs(plan, f"data-{row}", shares=dict.fromkeys(plan.domains, SHARES[row]))
    return subset_runs(plan, f"other-data-{row}", other=True, matched=row == "matched")


def rows_of(plan: Plan) -> list[str]:
    """Other data where the plan names some, else parts of its own."""
    return [OWN, "matched", "all"] if plan.other else ["quarter", "half", OWN]


def needs(plan: Plan) -> list[Run]:
    """Every row with every seed."""
    return [run for row in rows_of(plan) for run in runs_of(plan, row)]


def make(plan: Plan, results: Results) -> Table:
    """Rows data, columns domains; differences are taken against the fused model of the other tables."""
    items = {row: [items_of(r, ALL) for r in results.all(runs_of(plan, row))] for row in rows_of(plan)}
    rows = []
    for key in rows_of(plan):
        runs, ours = runs_of(plan, key), key == OWN
        differences = {}
        if not ours and items[key] and items[OWN]:
            differences = paired_differences(items[key], items[OWN], plan.columns, plan.domains)
        score = paper.scores("UltraFuser")[paper.AVERAGE] if ours else paper.OTHER_DATA_AVERAGE
        rows.append(
            Row(
                key,
                LABELS[key],
                loss_cells(items[key], plan.columns, plan.domains),
                _read(results.all(runs)),
                ours=ours,
                paper={paper.AVERAGE: score} if ours or key == "matched" else {},
                differences=differences,
                missing=results.why(runs),
            )
        )
    return Table(
        TITLE,
        _text(plan),
        loss_columns(plan),
        rows,
        paper_columns=[Column(paper.AVERAGE, paper.AVERAGE, "percent", "high")],
        paper_text="The paper's figures are averages of seven scores in percent, higher is better (47.48 is printed "
        f"for the first). With UltraChat, MathInstruct and Evol-Instruct in place of UltraChat 2: "
        f"{paper.OTHER_DATA_AVERAGE}.",
        reference="the fused model of the other tables",
        findings=_findings(rows),
        first="trained on",
    )


def _text(plan: Plan) -> str:
    start = "Held-out loss in nats per response token, lower is better; the same steps and held-out items for all."
    if plan.other:
        return (
            f"{start} The other conversations are those of --other-data, first as many of each domain as the data of "
            "the other tables have, then all of them. The held-out items are of the same making as the latter, which "
            "favours them."
        )
    return (
        f"{start} The paper changes the training data; no other data were given here (--other-data), and another cut "
        "of the same sample would be no other data. So this table shows how much of its data the fused model needs, "
        "and the paper's question stays open."
    )


def _read(found: Sequence[Result]) -> str:
    if not found:
        return ""
    counts = ", ".join(f"{one['train']:,} {name}" for name, one in found[0]["data"].items())
    return f"trained on {counts}"


def _findings(rows: Sequence[Row]) -> list[Finding]:
    """What each change of the data did to the mean, by the paired interval."""
    found = []
    for row in rows:
        gap = row.differences.get(MEAN)
        if gap is None:
            continue
        word = {-1: "lower", 0: "not clearly other", 1: "higher"}[gap.sign]
        text = f"Trained on {row.label}, the loss on the mean of the domains is {word}: {gap.mean:+.3f} nats per token."
        found.append(Finding({-1: "yes", 0: "even", 1: "no"}[gap.sign], text))  # type: ignore[arg-type]
    return found


TABLE = TableSpec(TITLE, needs, make)
