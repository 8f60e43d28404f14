"""Runs about written answers: losses on the reference answers, a model's own answers, their ratings, what is picked.

Only what a judge says has the judge in its key: with another judge the answers are not written again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultrafuser.reproduce.chat.questions import CATEGORIES, chat_items, load_questions, reference_talks
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run

CHAT = "chat"
WRITTEN = ("aqua", "gsm8k", "sat_math")  # benchmarks whose written answers are graded without a judge
SHORT, LONG = 96, 1024  # most tokens of an answer: of small models, whose answers end early or never, and of others
JUDGE, LIKELIHOOD = "judge", "likelihood"
SPECIALISTS = "specialists"


def losses_run(plan: Plan, source: Run | None = None) -> Run:
    """Loss on the reference answers: of each specialist and their uniform mixture, or of the model of a run.

    result["items"] by name ("model" for the latter), domains being the categories.
    """
    inputs = {"questions": _questions(plan)}
    if source is None:
        return Run(f"chat-loss/{SPECIALISTS}", read_references, inputs, cost=6.0)
    return Run(f"chat-loss/{source.name}", read_references, {**inputs, "model": source.name}, after=(source,), cost=6.0)


def answers_run(plan: Plan, source: Run | str) -> Run:
    """A specialist's answers, by its name, or those of the model of a run, to chat questions and written benchmarks.

    result["answers"][CHAT or benchmark][item] is a list of texts; result["scores"][benchmark][item] the item's score.
    """
    inputs = {
        "questions": _questions(plan),
        "benchmarks": list(WRITTEN),
        "data": plan.benchmark_data,
        "digest": plan.benchmark_digest,
        "limit": plan.settings.benchmark_limit,
        "tokens": LONG if plan.settings.needs_gpu else SHORT,
    }
    if isinstance(source, str):
        return Run(f"answers/specialist-{source}", write_answers, {**inputs, "specialist": source}, cost=40.0)
    return Run(f"answers/{source.name}", write_answers, {**inputs, "model": source.name}, after=(source,), cost=80.0)


def ratings_run(plan: Plan, source: Run | str) -> Run:
    """The judge's ratings of a model's answers to the chat questions: result["ratings"][item], None without one."""
    answers = answers_run(plan, source)
    inputs = {"questions": _questions(plan), "judge": plan.judge, "answers": answers.name}
    return Run(f"ratings/{answers.name.removeprefix('answers/')}", rate_answers, inputs, after=(answers,), cost=60.0)


def picks_run(plan: Plan, picker: str, seed: int) -> Run:
    """Whose answer `picker` takes, candidates shuffled by the seed: result["picks"][CHAT or benchmark][item].

    The judge is asked about chat questions alone.
    """
    answers = [answers_run(plan, name) for name in plan.specialists]
    inputs: dict[str, Any] = {
        "picker": picker,
        "seed": seed,
        "answers": {name: run.name for name, run in zip(plan.specialists, answers, strict=True)},
        "questions": _questions(plan),
    }
    if picker == JUDGE:
        inputs["judge"] = plan.judge
    else:
        inputs |= {"benchmarks": list(WRITTEN), "data": plan.benchmark_data, "limit": plan.settings.benchmark_limit}
    return Run(f"picks-{picker}/seed-{seed}", pick_answers, inputs, after=tuple(answers), cost=20.0)


def _questions(plan: Plan) -> list[dict[str, Any]]:
    """What is asked, in full: an input, so that other questions are other runs. The smallest scale asks one a kind."""
    return load_questions(1 if plan.settings.heldout_limit is not None else None)


def read_references(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Read the reference answers; what is longer than the specialists can read is left out for every model alike."""
    from ultrafuser.data import ResponseDataset

    trio, tokenizer = context.build(context.plan.open_recipe())
    talks, limit = reference_talks(inputs["questions"]), trio.config.max_position_embeddings
    whole = ResponseDataset.from_conversations(talks, list(trio.config.templates), tokenizer)
    kept = {example.id for example in whole.examples if example.length <= limit}
    left_out = [talk.id for talk in talks if talk.id not in kept]
    names, n = list(trio.config.specialist_names), trio.n_specialists
    model, weightings = trio, {name: [float(place == j) for j in range(n)] for place, name in enumerate(names)}
    weightings["uniform"] = [1 / n] * n
    if "model" in inputs:
        model, weightings = _opened(context, found[inputs["model"]]), {"model": None}  # type: ignore[dict-item]
    if not kept:
        return {"items": {name: [] for name in weightings}, "left_out": left_out}
    dataset = ResponseDataset.from_conversations(
        [talk for talk in talks if talk.id in kept],
        list(model.config.templates),
        tokenizer,
        categories=[name for name in CATEGORIES if any(t.category == name and t.id in kept for t in talks)],
    )
    items = context.read(model, dataset, "read the reference answers", weightings)
    return {"items": items, "left_out": left_out}


def write_answers(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Greedy answers to everything, and the scores of those that need no judge."""
    from ultrafuser.baselines.scores import open_made
    from ultrafuser.baselines.selection import answer_all
    from ultrafuser.evaluation.benchmark import Answer
    from ultrafuser.evaluation.benchmarks import BENCHMARKS
    from ultrafuser.evaluation.subjects.local import LocalSubject
    from ultrafuser.evaluation.tools import Tools

    setting = context.setting(0)
    if "model" in inputs:
        model = _opened(context, found[inputs["model"]])
    else:
        model = open_made(setting, setting.origins[inputs["specialist"]].path)
    subject = LocalSubject(model, setting.tokenizer, name=inputs.get("specialist") or inputs["model"])
    asked = {CHAT: chat_items(inputs["questions"])} | _written(inputs)
    answers = {
        name: answer_all(
            subject,
            items,
            max_new_tokens=inputs["tokens"],
            on_batch=lambda done, total, name=name: context.report(f"answer {name}", done, total, None),
        )
        for name, items in asked.items()
    }
    scores = {}
    with Tools() as tools:
        for name in inputs["benchmarks"]:
            benchmark = BENCHMARKS[name]
            verdicts = benchmark.grade([(i, Answer(texts=answers[name][i.id])) for i in asked[name]], tools)
            pairs = zip(asked[name], verdicts, strict=True)
            scores[name] = {item.id: verdict.scores[benchmark.metric] for item, verdict in pairs}
    return {"answers": answers, "scores": scores}


def rate_answers(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Ask the judge for a rating of every turn; an item's rating is the mean of its turns'."""
    from ultrafuser.evaluation.benchmark import Answer
    from ultrafuser.evaluation.benchmarks.mt_bench import MTBench
    from ultrafuser.evaluation.tools import Tools

    items = chat_items(inputs["questions"])
    answers = found[inputs["answers"]]["answers"][CHAT]
    benchmark, ratings = MTBench(), {}
    with Tools(judge=_judge(inputs)) as tools:
        for done, item in enumerate(items):
            context.report("ask the judge", done, len(items), None)
            (verdict,) = benchmark.grade([(item, Answer(texts=tuple(answers[item.id])))], tools)
            ratings[item.id] = verdict.scores.get(benchmark.metric)
    return {"ratings": ratings}


def pick_answers(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Let the picker choose among the specialists' answers."""
    from ultrafuser.evaluation.selection import JudgePicker, LikelihoodPicker, Picker, select
    from ultrafuser.evaluation.subjects.local import LocalSubject

    answers = {name: found[run]["answers"] for name, run in inputs["answers"].items()}
    asked = {CHAT: chat_items(inputs["questions"])}
    judge = None
    if inputs["picker"] == JUDGE:
        judge = _judge(inputs)
        picker: Picker = JudgePicker(judge)
    else:
        asked |= _written(inputs)
        setting = context.setting(0)
        mixed = setting.fuse({n: setting.open(n) for n in setting.names}, setting.templates, gate="constant")
        picker = LikelihoodPicker(LocalSubject(mixed, setting.tokenizer, name="uniform"))
    picks = {}
    for done, (name, items) in enumerate(asked.items()):
        context.report(f"pick answers to {name}", done, len(asked), None)
        own = {specialist: given[name] for specialist, given in answers.items()}
        chosen = select({item.id: item.turns for item in items}, own, picker, seed=inputs["seed"])
        picks[name] = {item: one.as_dict() for item, one in chosen.items()}
    if judge is not None:
        judge.close()
    return {"picks": picks}


def _written(inputs: dict[str, Any]) -> dict[str, list[Any]]:
    """The items of the benchmarks that are graded without a judge."""
    from ultrafuser.evaluation.benchmarks import BENCHMARKS
    from ultrafuser.evaluation.data import load_records
    from ultrafuser.evaluation.plan import Options, make_task

    options = Options(limit=inputs["limit"])
    found = {}
    for name in inputs["benchmarks"]:
        benchmark = BENCHMARKS[name]
        found[name] = make_task(benchmark, load_records(benchmark.source, inputs["data"]), options).items
    return found


def _judge(inputs: dict[str, Any]) -> Any:
    from ultrafuser.evaluation.judges import open_judge

    return open_judge(url=inputs["judge"]["url"], model=inputs["judge"]["model"])


def _opened(context: Context, result: Result) -> Any:
    from ultrafuser.baselines.scores import open_made

    folder: Path = context.path_of(result)
    return open_made(context.setting(0), folder)
