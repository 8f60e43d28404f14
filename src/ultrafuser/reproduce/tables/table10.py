"""Table 10: chain of thought in mathematics, by written answers where models write any, else by likelihoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import Cell, Item, loss_by_domain, paired_differences
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, Verdict, items_of
from ultrafuser.reproduce.tasks import tasks_run
from ultrafuser.reproduce.thoughts import AFTER_STEPS, ASKED, AT_ONCE, MATH, THOUGHT, thought_run

TITLE = "Table 10: chain of thought in mathematics"
OURS = "fused_stage2"
READ = {
    ASKED: "worked answer, as asked",
    THOUGHT: "worked answer, with the phrase",
    AT_ONCE: "last line at once",
    AFTER_STEPS: "last line after the steps",
}
CHOSEN = {ASKED: "choices, as asked", THOUGHT: "choices, with the phrase"}
WRITTEN = {ASKED: "written answers, as asked", THOUGHT: "written answers, with the phrase"}
PAPER = {ASKED: "as asked", THOUGHT: "with the phrase"}


def sources(plan: Plan) -> dict[str, list[Run | str]]:
    """The models by row: each specialist, and the fused model of every seed."""
    alone: dict[str, list[Run | str]] = {name: [name] for name in plan.specialists}
    return {**alone, OURS: list(fused_runs(plan))}


def written_benchmarks(plan: Plan) -> list[str]:
    """The scale's benchmarks of written answers that have a form with chain of thought."""
    from ultrafuser.evaluation.benchmarks import BENCHMARKS

    return [name for name in plan.settings.benchmarks if BENCHMARKS[name].has_chain_of_thought]


def _written_runs(plan: Plan, models: Sequence[Run | str], form: str) -> list[Run]:
    names = written_benchmarks(plan)
    if not names:
        return []
    if form == ASKED:
        return [tasks_run(plan, model) for model in models]
    return [tasks_run(plan, model, name="thought", benchmarks=names, chain_of_thought=True) for model in models]


def needs(plan: Plan) -> list[Run]:
    """Every model read, and asked where the scale asks for written answers."""
    by_row = sources(plan).values()
    written = [run for models in by_row for form in WRITTEN for run in _written_runs(plan, models, form)]
    return [*(thought_run(plan, model) for models in by_row for model in models), *written]


def make(plan: Plan, results: Results) -> Table:
    """Rows models; the same questions without and with the phrase, the last line without and with the steps."""
    rows, found = [], {}
    for key, models in sources(plan).items():
        runs = [thought_run(plan, model) for model in models]
        found[key] = results.all(runs)
        written = {form: results.all(_written_runs(plan, models, form)) for form in WRITTEN}
        ours = key == OURS
        rows.append(
            Row(
                key,
                "fused, stage 2" if ours else f"{key} specialist",
                {**_read(found[key]), **_chosen(found[key]), **_scored(plan, written)},
                ours=ours,
                paper=paper.TABLE_10 if ours else {},
                missing=results.why(runs),
            )
        )
    columns = [Column(name, label, "nats", "low") for name, label in READ.items()]
    columns += [Column(f"choices_{form}", label, "percent", "high") for form, label in CHOSEN.items()]
    if written_benchmarks(plan):
        columns += [Column(f"written_{form}", label, "percent", "high") for form, label in WRITTEN.items()]
    return Table(
        TITLE,
        _text(plan, found[OURS]),
        columns,
        rows,
        paper_columns=[Column(form, label, "percent", "high") for form, label in PAPER.items()],
        paper_text="The paper's figures are the fused model's mean score over GSM8K, MATH, SAT-Math and AQuA-RAT in "
        "percent, from answers that it writes.",
        findings=_findings(found[OURS]),
        first="model",
    )


def _text(plan: Plan, found: Sequence[Result]) -> str:
    text = (
        "The phrase is “Let's think step by step.” after the question. Losses in nats per token of the held-out "
        f"answers in {MATH}: of the whole worked answer, and of its last line alone, given at once or after the steps "
        "of the held-out answer (not the model's own). Choices: how often the right letter of AQuA-RAT and SAT-Math "
        "items is the likeliest, in percent"
    )
    if found:
        rows = found[0]["choices"][ASKED]
        chance = 100 * fmean(1 / row[2] for row in rows)
        text += f" ({len(rows)} items; guessing gives {chance:.0f})"
    if not written_benchmarks(plan):
        text += (
            ". The paper scores answers that the model writes; at this scale models hardly solve any problem by "
            "themselves, so its question is answered here only as far as likelihoods go"
        )
    return f"{text}."


def _read(found: Sequence[Result]) -> dict[str, Cell]:
    losses = [{name: loss_by_domain(items_of(one, name), [MATH]) for name in READ} for one in found]
    cells = {name: Cell.of(one[name][MATH] for one in losses if MATH in one[name]) for name in READ}
    return {name: cell for name, cell in cells.items() if cell is not None}


def _chosen(found: Sequence[Result]) -> dict[str, Cell]:
    cells = {
        f"choices_{form}": Cell.of(100 * fmean(row[1] for row in one["choices"][form]) for one in found)
        for form in CHOSEN
    }
    return {name: cell for name, cell in cells.items() if cell is not None}


def _scored(plan: Plan, written: Mapping[str, Sequence[Result]]) -> dict[str, Cell]:
    """The mean score over the benchmarks of written answers; a model without all of them has none."""
    names = written_benchmarks(plan)
    cells = {}
    for form, found in written.items():
        scores = [[one["scores"].get(name, {}).get("score") for name in names] for one in found]
        cell = Cell.of(100 * fmean(values) for values in scores if None not in values)
        if cell is not None:
            cells[f"written_{form}"] = cell
    return cells


def _findings(found: Sequence[Result]) -> list[Finding]:
    """What the phrase and the steps did to the fused model's losses, by paired intervals."""
    items = {name: [items_of(one, name) for one in found] for name in READ}
    claims = {
        (THOUGHT, ASKED): "The phrase changes the loss of worked answers by",
        (AFTER_STEPS, AT_ONCE): "The worked steps change the loss of the last line by",
    }
    sentences = []
    for (left, right), text in claims.items():
        gap = _gap(items[left], items[right])
        if gap is not None:
            verdict: Verdict = "yes" if gap.sign < 0 else "no" if gap.sign > 0 else "even"
            interval = "" if gap.low is None else f" [{gap.low:+.3f}, {gap.high:+.3f}]"
            sentences.append(Finding(verdict, f"{text} {gap.mean:+.3f} nats per token{interval} in the fused model."))
    return sentences


def _gap(left: Sequence[list[Item]], right: Sequence[list[Item]]):  # type: ignore[no-untyped-def]
    if not left or not left[0] or not right[0]:
        return None
    return paired_differences(left, right, [MATH], []).get(MATH)


TABLE = TableSpec(TITLE, needs, make)
