"""Table 7: chat by category, rated by a judge where there is one, else by the loss on reference answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ultrafuser.reproduce.cells import MEAN, Cell, Item, loss_cells, paired_differences
from ultrafuser.reproduce.chat.questions import CATEGORIES, load_questions
from ultrafuser.reproduce.chat.runs import losses_run, ratings_run
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of

TITLE = "Table 7: chat by category"
OURS, UNIFORM = "fused_stage2", "uniform"
LOSS = "loss"
UNJUDGED = (
    "No judge was asked, so these are no ratings: they are losses, in nats per token, on answers that were written for "
    "these questions, lower is better. For ratings from 1 to 10 give --judge URL [--judge-model NAME]."
)
JUDGED = (
    "Ratings from 1 to 10 by {judge}, mean over both turns; it sees right answers to coding, math and reasoning. "
    "Beside them the mean over the categories of the loss, in nats per token, on answers written for these questions."
)


def needs(plan: Plan) -> list[Run]:
    """Losses on the reference answers, and ratings of each model's own where there is a judge."""
    fused = fused_runs(plan)
    sources: list[Run | str] = [*plan.specialists, *fused]
    rated = [ratings_run(plan, source) for source in sources if plan.judge is not None]
    return [losses_run(plan), *(losses_run(plan, run) for run in fused), *rated]


def make(plan: Plan, results: Results) -> Table:
    """Rows models, columns categories, then their mean."""
    alone, fused = losses_run(plan), [losses_run(plan, run) for run in fused_runs(plan)]
    result, ours = results.get(alone), [items_of(one, "model") for one in results.all(fused)]
    names = [*plan.specialists, UNIFORM]
    losses = {name: [] if result is None else [items_of(result, name)] for name in names} | {OURS: ours}
    labels = {name: f"{name} specialist" for name in plan.specialists} | {
        UNIFORM: "uniform mixture",
        OURS: "fused, stage 2",
    }
    rows = []
    for key, label in labels.items():
        runs = fused if key == OURS else [alone]
        present = _present(losses[key])
        cells = loss_cells(losses[key], CATEGORIES, present) if present else {}
        gaps = {}
        if plan.judge is not None:
            sources = {OURS: list(fused_runs(plan)), UNIFORM: []}.get(key, [key])  # type: ignore[list-item]
            rated = [ratings_run(plan, source) for source in sources]
            cells = {LOSS: cells[MEAN]} if MEAN in cells else {}
            cells |= _ratings(plan, results.all(rated))
            runs = [*runs, *rated]
        elif key != OURS and present and _present(ours):
            gaps = paired_differences(losses[key], ours, CATEGORIES, _present(ours))
        rows.append(Row(key, label, cells, ours=key == OURS, differences=gaps, missing=results.why(runs)))
    return Table(
        TITLE,
        f"{len(load_questions())} questions of our own, two turns each. " + _how(plan),
        _columns(plan),
        rows,
        paper_text="The paper rates MT-Bench's 80 questions by GPT-4.",
        reference="the fused model" if plan.judge is None else "",
        findings=_findings(plan, rows),
    )


def _how(plan: Plan) -> str:
    if plan.judge is None:
        return UNJUDGED
    return JUDGED.format(judge=plan.judge["model"] or plan.judge["url"])


def _columns(plan: Plan) -> list[Column]:
    better = "low" if plan.judge is None else "high"
    columns = [Column(name, name, "nats", better) for name in (*CATEGORIES, MEAN)]  # type: ignore[arg-type]
    return columns if plan.judge is None else [*columns, Column(LOSS, "loss", "nats", "low")]


def _present(seeds: Sequence[Sequence[Item]]) -> list[str]:
    """The categories of which a question fits into the models' context."""
    domains = {item.domain for items in seeds for item in items}
    return [name for name in CATEGORIES if name in domains]


def _ratings(plan: Plan, found: Sequence[Result]) -> dict[str, Cell]:
    """Mean rating of each category and the mean over them, one value a seed."""
    category = {f"mt_bench/{one['question_id']}": one["category"] for one in load_questions()}
    values: dict[str, list[float]] = {}
    for result in found:
        own: dict[str, list[float]] = {}
        for item, rating in result["ratings"].items():
            if rating is not None:
                own.setdefault(category[item], []).append(rating)
        for name, ratings in own.items():
            values.setdefault(name, []).append(fmean(ratings))
        if own:
            values.setdefault(MEAN, []).append(fmean(fmean(ratings) for ratings in own.values()))
    return {name: cell for name, rated in values.items() if (cell := Cell.of(rated)) is not None}


def _findings(plan: Plan, rows: Sequence[Row]) -> list[Finding]:
    """Where the fused model leads the best specialist, by categories; too few questions for more."""
    cells: Mapping[str, Mapping[str, Cell]] = {row.key: row.cells for row in rows}
    ours, sign = cells[OURS], 1 if plan.judge is not None else -1
    known = [n for n in CATEGORIES if n in ours and all(n in cells[one] for one in plan.specialists)]
    if not known:
        return []
    best = {name: max(sign * cells[one][name].mean for one in plan.specialists) for name in known}
    ahead = [name for name in known if sign * ours[name].mean > best[name]]
    what = "rating" if plan.judge is not None else "loss on the reference answers"
    text = (
        f"By {what} the fused model is ahead of the best specialist in {len(ahead)} of {len(known)} categories"
        f"{': ' + ', '.join(ahead) if ahead else ''}. With so few questions this is a tendency, no more."
    )
    return [Finding("even", text)]


TABLE = TableSpec(TITLE, needs, make)
