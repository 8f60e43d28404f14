"""Figure 6: the mean weight of each specialist on every held-out item, as a heat map."""

from __future__ import annotations

from ultrafuser.analysis.heat import Weighed, heat_map
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.tables.table import Finding, Picture, Table, TableSpec, items_of

TITLE = "Figure 6: weight of each specialist on every held-out item"


def needs(plan: Plan) -> list[Run]:
    """The fused model."""
    return list(fused_runs(plan))


def make(plan: Plan, results: Results) -> Table:
    """The weights after stage 2, averaged over seeds; how often the right specialist has the largest one."""
    found = [items_of(result, ALL) for result in results.all(needs(plan))]
    items = []
    for same in zip(*found, strict=True):
        weights = [sum(values) / len(same) for values in zip(*(item.weights for item in same), strict=True)]
        items.append(Weighed(same[0].id, same[0].domain, weights))
    if not items:
        return Table(TITLE, "Nothing to show: the fused model is missing.")
    order = {name: place for place, name in enumerate(plan.columns)}
    items.sort(key=lambda item: order[item.group])
    picture = Picture(
        "After stage 2.",
        heat_map(items, plan.specialists),
        "One column for each held-out item, in groups, sorted by the right specialist's weight; the stronger the "
        "colour, the more weight (mean over tokens and seeds). The pointer shows item and weight.",
    )
    text = "As the paper's figure 6: weights of single samples. The gate is never told what an item is."
    return Table(TITLE, text, pictures=[picture], findings=_findings(plan, items))


def _findings(plan: Plan, items: list[Weighed]) -> list[Finding]:
    right: dict[str, list[bool]] = {}
    for item in items:
        if item.group in plan.specialists:
            largest = max(range(len(item.weights)), key=lambda j: item.weights[j])
            right.setdefault(item.group, []).append(plan.specialists[largest] == item.group)
    if not right:
        return []
    listed = ", ".join(f"{sum(rows)} of {len(rows)} in {name}" for name, rows in right.items())
    most = all(2 * sum(rows) > len(rows) for rows in right.values())
    return [Finding("yes" if most else "no", f"The right specialist has the largest mean weight on {listed}.")]


TABLE = TableSpec(TITLE, needs, make)
