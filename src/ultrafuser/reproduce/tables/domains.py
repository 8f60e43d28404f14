"""Domains: fused models of two, three and four specialists, and three that get a fourth without being touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ultrafuser.reproduce import widening
from ultrafuser.reproduce.cells import MEAN, Cell, Item, loss_cells, paired_differences, weights_by_domain
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of

TITLE = "Domains: two, three and four specialists"
GROWN = {
    widening.THREE: ("the three", "the fused model of the other tables, read in the fourth domain too"),
    widening.AS_IS: ("the three + the fourth, gate as it was", "nothing learned: the gate has never seen the fourth"),
    widening.KEPT: ("the three + the fourth, gate trained on", "a gate stage on four domains; no specialist learns"),
    widening.NEW: ("the three + the fourth, new gate", "the same stage from a gate drawn anew"),
}
GROUPS = {1: "one", 2: "two", 3: "three", 4: "four"}


def members(plan: Plan) -> list[str]:
    """The specialists that have a domain, then the newcomer where there is one."""
    extra = widening.newcomer(plan)
    return [name for name in plan.specialists if name in plan.domains] + ([extra.name] if extra else [])


def sets(plan: Plan) -> list[tuple[str, ...]]:
    """Every pair, and all where the newcomer is among them: the plan's own set is the other tables' fused model."""
    names = members(plan)
    pairs: list[tuple[str, ...]] = list(combinations(names, 2)) if len(names) > 2 else []
    return pairs if widening.newcomer(plan) is None else [*pairs, tuple(names)]


def needs(plan: Plan) -> list[Run]:
    """Each specialist alone; each set with every seed; the fused model of the other tables, grown where one comes."""
    runs = [widening.specialists_alone_run(plan)]
    runs += [widening.set_run(plan, names, seed) for names in sets(plan) for seed in plan.seeds]
    return runs + (fused_runs(plan) if widening.newcomer(plan) is None else _grown(plan))


def _grown(plan: Plan) -> list[Run]:
    return [widening.grow_run(plan, seed) for seed in plan.seeds]


def make(plan: Plan, results: Results) -> Table:
    """Rows sets of specialists, columns domains and the weights on the fourth's data."""
    names, extra = members(plan), widening.newcomer(plan)
    columns = [*plan.domains, *([extra.name] if extra else []), *plan.extra]
    rows = _Rows(plan, results, columns)
    found = [*rows.alone(), *rows.trained(), *(rows.own() if extra is None else rows.grown(extra.name))]
    shares = [Column(f"weight:{name}", f"weight of {name} on {extra.name}", "share") for name in names] if extra else []
    return Table(
        TITLE,
        "Held-out loss in nats per response token, every model read in every domain. A fused model of fewer "
        "specialists has seen data of its own domains alone, as many of each in a batch. On the right the mean gate "
        "weights on the fourth's held-out items. The paper fuses three.",
        [*(Column(name, name, "nats", "low") for name in columns), Column(MEAN, "mean", "nats", "low"), *shares],
        sorted(found, key=lambda one: list(GROUPS.values()).index(one.group)),
        reference=GROWN[widening.THREE][0] if extra else "",
        findings=_findings(plan, {one.key: one for one in found}, extra.name) if extra else (),
        first="specialists",
    )


@dataclass
class _Rows:
    """Makes the rows out of the results; differences are against the three before they grew."""

    plan: Plan
    results: Results
    columns: list[str]

    def alone(self) -> list[Row]:
        """Each specialist, nothing trained."""
        run = widening.specialists_alone_run(self.plan)
        read = self.results.get(run)
        return [
            self._row(name, f"{name} specialist", [items_of(read, name)] if read else [], [name], [run])
            for name in members(self.plan)
        ]

    def trained(self) -> list[Row]:
        """Every set that was trained from its beginning."""
        return [
            self._fused(chosen, " + ".join(chosen), [widening.set_run(self.plan, chosen, s) for s in self.plan.seeds])
            for chosen in sets(self.plan)
        ]

    def own(self) -> list[Row]:
        """The fused model of the other tables, where no newcomer is to join it."""
        return [replace(self._fused(self.plan.specialists, "the fused model", fused_runs(self.plan)), ours=True)]

    def grown(self, fourth: str) -> list[Row]:
        """The same model before and after the newcomer joined it."""
        rows = []
        for key, (label, note) in GROWN.items():
            names = [*self.plan.specialists, *([] if key == widening.THREE else [fourth])]
            items = self._grown_items(key)
            row = self._row(key, label, items, names, _grown(self.plan), self._grown_items(widening.THREE), note)
            rows.append(replace(row, ours=True) if key == widening.KEPT else row)
        return rows

    def _fused(self, names: Sequence[str], label: str, runs: list[Run]) -> Row:
        items = [items_of(result, ALL) for result in self.results.all(runs)]
        return self._row("+".join(names), label, items, names, runs, note="both stages, its own domains' data")

    def _row(
        self,
        key: str,
        label: str,
        items: list[list[Item]],
        names: Sequence[str],
        runs: list[Run],
        against: Sequence[list[Item]] = (),
        note: str = "",
    ) -> Row:
        averaged, extra = members(self.plan), widening.newcomer(self.plan)
        cells = loss_cells(items, self.columns, averaged)
        if extra is not None and items and len(names) > 1:
            cells |= _weights(items, names, extra.name)
        compared = key != widening.THREE and against and items
        gaps = paired_differences(items, against, self.columns, averaged) if compared else {}
        group, missing = GROUPS[min(len(names), max(GROUPS))], self.results.why(runs)
        return Row(key, label, cells, note, group, differences=gaps, missing=missing)

    def _grown_items(self, key: str) -> list[list[Item]]:
        return [items_of(result, key) for result in self.results.all(_grown(self.plan))]


def _weights(runs: Sequence[Sequence[Item]], names: Sequence[str], domain: str) -> dict[str, Cell]:
    """The mean weight of each specialist on one domain's items."""
    found = [weights_by_domain(items, [domain], names)[domain] for items in runs]
    cells = {f"weight:{name}": Cell.of(one[place] for one in found) for place, name in enumerate(names)}
    return {key: cell for key, cell in cells.items() if cell is not None}


def _findings(plan: Plan, rows: dict[str, Row], fourth: str) -> list[Finding]:
    """Whether the fourth, added by the gate alone, harms the three; and how near it comes to its own specialist."""
    grown, before, alone = rows[widening.KEPT], rows[widening.THREE], rows[fourth]
    if not (grown.cells and before.cells and alone.cells):
        return []
    harmed = [d for d in plan.domains if (gap := grown.differences.get(d)) and gap.low is not None and gap.low > 0]
    changes = ", ".join(f"{d} {grown.cells[d].mean - before.cells[d].mean:+.3f}" for d in plan.domains)
    old, now, own = (row.cells[fourth].mean for row in (before, grown, alone))
    ending = f"({changes}); {fourth} goes from {old:.3f} to {now:.3f}, its specialist alone has {own:.3f}."
    if harmed:
        text = f"A fourth specialist, added with a gate stage alone, raises the loss in {', '.join(harmed)}"
        return [Finding("no", f"{text} {ending}")]
    return [Finding("yes", f"A fourth specialist, added with a gate stage alone, harms none of the others {ending}")]


TABLE = TableSpec(TITLE, needs, make)
