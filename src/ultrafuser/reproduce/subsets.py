"""Runs that train the fused model on a part of its data, or on other data, each domain drawn to a size of its own.

What is drawn is spread over the whole of a domain's data, however they are sorted, and the same for every seed; a
smaller part lies within a larger one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultrafuser import zoo
from ultrafuser.files import write_whole
from ultrafuser.recipe import Recipe
from ultrafuser.reproduce.checkpoints import Checkpoints
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.experiments import fused_run, train_opened
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run

if TYPE_CHECKING:
    from ultrafuser.data import Conversation


def subset_run(
    plan: Plan,
    seed: int,
    name: str,
    *,
    shares: Mapping[str, float] | None = None,
    other: bool = False,
    matched: bool = False,
    checkpoints: int = 0,
    **settings: Any,
) -> Run:
    """A fused model trained on `shares` of each domain's training data, measured as `fused_run` measures.

    `other` takes the plan's other data, `matched` as many of its conversations as the plan's own data have.
    With `checkpoints` so many of the last stage are measured on the held-out items, in result["checkpoints"]; then no
    validation data are set aside, the last weights count, and nothing is chosen. `settings` are those of `fused_run`.
    """
    if checkpoints:
        settings["keep"] = "last"
    base = fused_run(plan, seed, name, **settings)
    inputs = {**base.inputs, "shares": dict(shares or {}), "checkpoints": checkpoints}
    if other:
        inputs |= {"other": plan.other, "digest": plan.other_digest, "matched": matched}
    return replace(base, function=train_subset, inputs=inputs, cost=base.cost * (1.5 if checkpoints else 1.0))


def subset_runs(plan: Plan, name: str, **settings: Any) -> list[Run]:
    """`subset_run` for every seed of the plan."""
    return [subset_run(plan, seed, name, **settings) for seed in plan.seeds]


def train_subset(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Draw the data, train, measure; result["drawn"] says how many conversations of each domain there were."""
    recipe = context.plan.open_recipe(inputs["seed"], inputs["changes"])
    data, drawn = _data(context, inputs, recipe)
    chosen = context.plan.open_recipe(inputs["seed"], {**inputs["changes"], "data": data})
    model, tokenizer = context.build(chosen)
    watch = Checkpoints(context, inputs["stages"][-1], inputs["checkpoints"]) if inputs["checkpoints"] else None
    callbacks = [] if watch is None else [watch.callback(model, tokenizer)]
    result = train_opened(context, inputs, chosen, model, tokenizer, callbacks=callbacks)
    extra = {} if watch is None else {"checkpoints": watch.measured()}
    return {**result, **extra, "drawn": drawn}


def _data(context: Context, inputs: Mapping[str, Any], recipe: Recipe) -> tuple[dict[str, Any], dict[str, int]]:
    """The recipe's `data` with the drawn conversations in files of the run's own folder, and their numbers."""
    from ultrafuser.data import load_conversations

    shares, other = inputs["shares"], inputs.get("other", {})
    data: dict[str, Any] = {}
    drawn = {}
    for name, domain in recipe.data.items():
        own = load_conversations([zoo.resolve_data(e) for e in domain.train], name, limit=domain.limit)
        rows = load_conversations(other[name], name) if name in other else own
        most = len(own) if inputs.get("matched") else (domain.limit or len(rows))
        count = max(2, round(min(most, len(rows)) * shares.get(name, 1.0)))
        rows = draw(rows, count)
        file = context.folder / "data" / f"{name}.jsonl"
        _write(file, rows)
        changes: dict[str, Any] = {"train": [str(file)], "limit": None}
        if inputs["checkpoints"]:
            changes |= {"validation": [], "validation_fraction": None}
        data[name] = domain.model_dump(mode="json") | changes
        drawn[name] = len(rows)
    return data, drawn


def draw(rows: Sequence[Conversation], count: int) -> list[Conversation]:
    """`count` of the rows, in their order: those whose ids and words come first when hashed."""

    def rank(place: int) -> bytes:
        return sha256("\n".join([rows[place].id, *rows[place].texts()]).encode()).digest()

    return [rows[place] for place in sorted(sorted(range(len(rows)), key=rank)[:count])]


def _write(file: Path, rows: Sequence[Conversation]) -> None:
    lines = (
        json.dumps({"id": row.id, "family": row.family, "messages": row.messages}, ensure_ascii=False) for row in rows
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(f"{line}\n" for line in lines))
