"""Table 5: answers of all specialists, one of them picked after the fact, against the fused model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ultrafuser.baselines.oracles import best_per_sample
from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import MEAN, Cell, Item, loss_cells, paired_differences
from ultrafuser.reproduce.chat.runs import CHAT, JUDGE, LIKELIHOOD, WRITTEN, answers_run, picks_run, ratings_run
from ultrafuser.reproduce.experiments import fused_runs, specialists_run
from ultrafuser.reproduce.methods import METHOD, method_run
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.scales import ALL
from ultrafuser.reproduce.tables.methods_in import task_columns
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, items_of, loss_columns

TITLE = "Table 5: selection after the fact"
OURS, ORACLE = "fused_stage2", "oracle"
PICKERS = {LIKELIHOOD: "selection by likelihood", JUDGE: "selection by the judge"}
NOTES = {
    LIKELIHOOD: "the likeliest answer under the uniform mixture; its loss is that of the specialist who wrote it",
    JUDGE: "candidates in random order, then in the opposite one; where both differ, the first counts",
}
RATING = "rating"
UNJUDGED = (
    " No judge was asked, so the paper's own column, a rating of chat answers from 1 to 10, is missing, and so is the "
    "judge as the picker: give --judge URL [--judge-model NAME]; the answers are kept and not written again."
)
Scores = dict[str, dict[str, float]]  # benchmark or CHAT -> item -> score


@dataclass
class _Line:
    """A row that has no numbers yet: losses of items and scores of answers, seed by seed."""

    row: Row
    losses: list[list[Item]] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)


def pickers(plan: Plan) -> list[str]:
    """The judge picks where there is one."""
    return [name for name in PICKERS if name != JUDGE or plan.judge is not None]


def needs(plan: Plan) -> list[Run]:
    """The specialists and the fused model, their answers, what is picked, and what a judge says."""
    fused = fused_runs(plan)
    sources: list[Run | str] = [*plan.specialists, *fused]
    return [
        specialists_run(plan),
        *fused,
        *(method_run(plan, "selection", seed) for seed in plan.seeds),
        *(answers_run(plan, source) for source in sources),
        *(picks_run(plan, picker, seed) for picker in pickers(plan) for seed in plan.seeds),
        *(ratings_run(plan, source) for source in sources if plan.judge is not None),
    ]


def make(plan: Plan, results: Results) -> Table:
    """Rows pickers and models; columns losses, scores of written answers, and ratings where there is a judge."""
    scores = {name: _scores(plan, results, name) for name in plan.specialists}
    lines = [*_specialists(plan, results, scores), *_selected(plan, results, scores)]
    lines += [_oracle(plan, results, scores), _ours(plan, results)]
    ours = lines[-1].losses
    tasks = {line.row.key: _task_cells(line.scores) for line in lines}
    columns = [*loss_columns(plan), *(column for column in task_columns(tasks.values()) if column.key != CHAT)]
    if plan.judge is not None:
        columns.append(Column(RATING, "chat, rating", "nats", "high"))
    rows = []
    for line in lines:
        cells = {**loss_cells(line.losses, plan.columns, plan.domains), **tasks[line.row.key]}
        gaps = {}
        if line.losses and ours and line.row.key != OURS:
            gaps = paired_differences(line.losses, ours, plan.columns, plan.domains)
        rows.append(replace(line.row, cells=cells, differences=gaps))
    judge = f" The judge: {plan.judge['model'] or plan.judge['url']}." if plan.judge is not None else UNJUDGED
    return Table(
        TITLE,
        "Every specialist answers, greedily, and one answer is taken. Held-out loss in nats per response token, where "
        "lower is better; scores of written answers in percent, where some row has more than nothing." + judge,
        columns,
        rows,
        paper_columns=[Column(RATING, "MT-Bench, rating", "nats", "high")],
        paper_text="The paper's figures are MT-Bench ratings with a reward model or an LLM judge as the picker.",
        reference="the fused model",
        findings=_findings(plan, lines),
        first="answer of",
    )


def _specialists(plan: Plan, results: Results, scores: Mapping[str, Scores]) -> list[_Line]:
    run = specialists_run(plan)
    result = results.get(run)
    return [
        _Line(
            Row(name, f"{name} specialist", missing=results.why([run, answers_run(plan, name)])),
            [] if result is None else [items_of(result, name)],
            [scores[name]] if scores[name] else [],
        )
        for name in plan.specialists
    ]


def _selected(plan: Plan, results: Results, scores: Mapping[str, Scores]) -> list[_Line]:
    """A row for each picker: the scores of the answers that it took."""
    lines = []
    for picker in pickers(plan):
        runs = [picks_run(plan, picker, seed) for seed in plan.seeds]
        taken = [_taken(result["picks"], scores) for result in results.all(runs)]
        losses = []
        if picker == LIKELIHOOD:
            methods = [method_run(plan, "selection", seed) for seed in plan.seeds]
            losses = [items_of(result, METHOD) for result in results.all(methods)]
            runs += methods
        row = Row(
            picker,
            PICKERS[picker],
            note=NOTES[picker],
            paper={RATING: paper.TABLE_5["selection"]} if picker == JUDGE else {},
            missing=results.why(runs),
        )
        lines.append(_Line(row, losses, taken))
    return lines


def _oracle(plan: Plan, results: Results, scores: Mapping[str, Scores]) -> _Line:
    """The best answer of each item, which no picker can beat."""
    result = results.get(specialists_run(plan))
    losses = [] if result is None else [best_per_sample({name: items_of(result, name) for name in plan.specialists})]
    known = [one for one in scores.values() if one]
    best = {
        name: {item: max(one[name][item] for one in known if item in one[name]) for item in known[0][name]}
        for name in (known[0] if known else ())
    }
    row = Row(ORACLE, "best answer of each item", note="knows losses, scores and ratings", oracle=True)
    return _Line(row, losses, [best] if best else [])


def _ours(plan: Plan, results: Results) -> _Line:
    runs = fused_runs(plan)
    written = [_scores(plan, results, run) for run in runs]
    row = Row(
        OURS,
        "fused, stage 2",
        note="one answer, nothing to pick from",
        ours=True,
        paper={RATING: paper.TABLE_5["UltraFuser"]},
        missing=results.why([*runs, *(answers_run(plan, run) for run in runs)]),
    )
    return _Line(row, [items_of(one, ALL) for one in results.all(runs)], [one for one in written if one])


def _scores(plan: Plan, results: Results, source: Run | str) -> Scores:
    """Scores of a model's written answers, and the judge's ratings of its chat answers; empty where none are there."""
    answers = results.get(answers_run(plan, source))
    if answers is None:
        return {}
    found: Scores = dict(answers["scores"])
    rated = results.get(ratings_run(plan, source)) if plan.judge is not None else None
    if rated is not None:
        found[CHAT] = {item: rating for item, rating in rated["ratings"].items() if rating is not None}
    return found


def _taken(picks: Mapping[str, Mapping[str, Mapping[str, str]]], scores: Mapping[str, Scores]) -> Scores:
    """The scores of the answers that were picked."""
    return {
        name: {
            item: scores[pick["name"]][name][item]
            for item, pick in own.items()
            if item in scores[pick["name"]].get(name, {})
        }
        for name, own in picks.items()
    }


def _task_cells(seeds: Sequence[Scores]) -> dict[str, Cell]:
    """Mean score of each benchmark in percent, and the mean rating, one value a seed."""
    found: dict[str, Cell | None] = {
        name: Cell.of(100 * sum(one[name].values()) / len(one[name]) for one in seeds if one.get(name))
        for name in WRITTEN
    }
    found[RATING] = Cell.of(sum(one[CHAT].values()) / len(one[CHAT]) for one in seeds if one.get(CHAT))
    return {name: cell for name, cell in found.items() if cell is not None}


def _findings(plan: Plan, lines: Sequence[_Line]) -> list[Finding]:
    by_key = {line.row.key: line for line in lines}
    found = []
    ours, likely = by_key[OURS], by_key[LIKELIHOOD]
    if ours.losses and likely.losses:
        gap = paired_differences(likely.losses, ours.losses, plan.columns, plan.domains)[MEAN]
        verdict = {1: "yes", -1: "no", 0: "even"}[gap.sign]
        text = (
            f"Selection by likelihood less the fused model on the mean of the domains: {gap.mean:+.3f} nats per token."
        )
        found.append(Finding(verdict, text))  # type: ignore[arg-type]
    judged = by_key.get(JUDGE)
    if judged is not None and any(one.get(CHAT) for one in judged.scores) and any(one.get(CHAT) for one in ours.scores):
        gap = paired_differences(_rated(ours.scores), _rated(judged.scores), [CHAT], [CHAT])[CHAT]
        verdict = {1: "yes", -1: "no", 0: "even"}[gap.sign]
        text = f"The fused model less selection by the judge: {gap.mean:+.2f} points of rating (the paper: +0.18)."
        found.append(Finding(verdict, text))  # type: ignore[arg-type]
    return found


def _rated(seeds: Sequence[Scores]) -> list[list[Item]]:
    """Ratings as items, for a paired interval over the questions."""
    return [[Item(item, CHAT, rating, 1) for item, rating in one.get(CHAT, {}).items()] for one in seeds]


TABLE = TableSpec(TITLE, needs, make)
