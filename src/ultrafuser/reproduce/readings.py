"""Runs that read the held-out items token by token: where in an answer, and at which tokens, each specialist speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.experiments import fused_run
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run
from ultrafuser.reproduce.tasks import open_subject

PARTS = 10  # an answer's tokens are put into as many parts of equal length
SHOWN = 110  # tokens of an example
SHORTEST = 20


def reading_run(plan: Plan, seed: int) -> Run:
    """The fused model read token by token.

    result["columns"][column] holds "tokens" and "weights" by tenth of the answer (10, and 10 x N: sums), and
    "ranked" (N): the summed weight of the specialist that gives the token the highest probability, the second, ...;
    result["examples"] a few answers as [column, id, [[text, weights], ...]].
    """
    source = fused_run(plan, seed)
    return Run(f"tokens/{source.name}", read_tokens, {"model": source.name}, after=(source,), cost=15.0)


def reading_runs(plan: Plan) -> list[Run]:
    """`reading_run` for every seed of the plan."""
    return [reading_run(plan, seed) for seed in plan.seeds]


def read_tokens(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Score every held-out answer and add its tokens up."""
    from ultrafuser.generation.scoring import score

    model, tokenizer, _ = open_subject(context, inputs, found)
    n = model.n_specialists
    columns = {
        c: {"tokens": np.zeros(PARTS), "weights": np.zeros((PARTS, n)), "ranked": np.zeros(n)}
        for c in _columns(context)
    }
    examples: dict[str, list[Any]] = {}
    for done, conversation in enumerate(context.heldout, start=1):
        events = score(model, tokenizer, conversation.messages)
        add(columns[conversation.category], events)
        if conversation.category not in examples and SHORTEST <= len(events) <= SHOWN:
            pieces = [[event.text, [round(w, 4) for w in event.weights]] for event in events]
            examples[conversation.category] = [conversation.category, conversation.id, pieces]
        context.report("read tokens", done, len(context.heldout), None)
    plain = {c: {key: value.tolist() for key, value in sums.items()} for c, sums in columns.items()}
    order = [c for c in columns if c in examples]
    return {
        "columns": plain,
        "examples": [examples[c] for c in order],
        "specialists": list(model.config.specialist_names),
    }


def add(sums: dict[str, Any], events: Sequence[Any]) -> None:
    """Add an answer's tokens to its column's sums."""
    for place, event in enumerate(events):
        weights = np.array(event.weights)
        part = PARTS * place // len(events)
        sums["tokens"][part] += 1
        sums["weights"][part] += weights
        sums["ranked"] += weights[np.argsort(-np.array(event.specialist_logprobs), kind="stable")]


def _columns(context: Context) -> list[str]:
    present = {conversation.category for conversation in context.heldout}
    return [name for name in context.plan.columns if name in present]
