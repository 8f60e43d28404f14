"""Runs that ask for chain of thought where nothing has to be written: what the phrase and the steps do to likelihoods.

Small models answer no problem by themselves, so their figures come from given answers; the worked steps are those of
the held-out answer, not the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run
from ultrafuser.reproduce.tasks import SPECIALIST, open_subject

if TYPE_CHECKING:
    from ultrafuser.data import Conversation

MATH = "math"
ASKED, THOUGHT, AT_ONCE, AFTER_STEPS = "asked", "thought", "at_once", "after_steps"
CHOICES = ("aqua", "sat_math")


def thought_run(plan: Plan, source: Run | str) -> Run:
    """Held-out mathematics and multiple choice read by the model that a run left, or by a specialist.

    result["items"] holds rows under "asked" and "thought" (the whole worked answer, without and with the phrase after
    the question), "at_once" and "after_steps" (its last line, right after the question and after the steps);
    result["choices"] whether each item's right letter was the likeliest, "asked" and "thought".
    """
    inputs = {
        "data": plan.benchmark_data,
        "digest": plan.benchmark_digest,
        "benchmarks": list(CHOICES),
        "limit": plan.settings.benchmark_limit,
    }
    if isinstance(source, str):
        return Run(f"steps/{SPECIALIST}-{source}", read_thoughts, {**inputs, SPECIALIST: source}, cost=8.0)
    return Run(f"steps/{source.name}", read_thoughts, {**inputs, "model": source.name}, after=(source,), cost=20.0)


def read_thoughts(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Read everything that `thought_run` names."""
    model, tokenizer, _ = open_subject(context, inputs, found)
    rows = [one for one in context.heldout if one.category == MATH]
    items: dict[str, list[list[Any]]] = {name: [] for name in (ASKED, THOUGHT, AT_ONCE, AFTER_STEPS)}
    for done, conversation in enumerate(rows, start=1):
        for name, nats, tokens in _losses(model, tokenizer, conversation):
            items[name].append([conversation.id, MATH, nats, tokens, []])
        context.report("read answers", done, len(rows), None)
    return {"items": items, "choices": _choices(context, model, tokenizer, inputs)}


def _losses(model: Any, tokenizer: Any, conversation: Conversation) -> list[tuple[str, float, int]]:
    """Name, nats and tokens of what is read of a conversation's last answer; its last line where it has several."""
    from ultrafuser.generation.scoring import score

    *before, question, answer = conversation.messages
    thinking = {"role": "user", "content": with_phrase(question["content"])}
    whole = score(model, tokenizer, conversation.messages)
    found = [(ASKED, whole), (THOUGHT, score(model, tokenizer, [*before, thinking, answer]))]
    steps, last = split_answer(answer["content"])
    if steps:
        short = {"role": "assistant", "content": last}
        found += [
            (AT_ONCE, score(model, tokenizer, [*before, question, short])),
            (AFTER_STEPS, after(whole, len(steps))),
        ]
    return [(name, -sum(event.logprob for event in events), len(events)) for name, events in found]


def with_phrase(question: str) -> str:
    """A question with the paper's phrase on a line of its own, as the benchmarks put it."""
    from ultrafuser.evaluation.benchmarks.problems import CHAIN_OF_THOUGHT

    return f"{question}\n{CHAIN_OF_THOUGHT}"


def split_answer(text: str) -> tuple[str, str]:
    """The steps, with the line end after them, and the last line; no steps where there is one line only."""
    cut = text.rstrip().rfind("\n") + 1
    return text[:cut], text[cut:]


def after(events: Sequence[Any], start: int) -> list[Any]:
    """The tokens that begin at character `start` of the answer or later, the end of the sequence among them."""
    found, place = [], 0
    for event in events:
        if place >= start:
            found.append(event)
        place += len(event.text)
    return found


def _choices(context: Context, model: Any, tokenizer: Any, inputs: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """For each item of multiple choice: its id, whether the right letter was likeliest, and how many options it has."""
    from ultrafuser.evaluation.benchmarks import BENCHMARKS
    from ultrafuser.evaluation.data import load_records
    from ultrafuser.evaluation.plan import Options, make_task
    from ultrafuser.generation.likelihood import likelihoods

    found: dict[str, list[list[Any]]] = {ASKED: [], THOUGHT: []}
    for name in inputs["benchmarks"]:
        benchmark = BENCHMARKS[name]
        records = load_records(benchmark.source, inputs["data"])
        for form in found:
            options = Options(limit=inputs["limit"], chain_of_thought=form == THOUGHT)
            for item in make_task(benchmark, records, options).items:
                letters = "ABCDE"[: len(item.record["options"])]
                asked = [{"role": "user", "content": item.turns[0]}]
                scored = likelihoods(model, tokenizer, [(asked, letter, False) for letter in letters])
                best = max(range(len(letters)), key=lambda place: scored[place].logprob)
                found[form].append([item.id, int(letters[best] == item.record["correct"]), len(letters)])
                context.report(f"choose {name}", len(found[form]), 0, None)
    return found
