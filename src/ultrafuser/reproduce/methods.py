"""Runs that make a baseline of the table BASELINES and measure it; what is not installed is told, not run."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ultrafuser.baselines import BASELINES, find_baseline
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.experiments import curve, fused_run, training_cost
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run
from ultrafuser.reproduce.scales import ALL

METHOD = "method"
CONDITIONS = ("base", "validation", "heldout", "several")  # needs that are no packages
# From random weights with the operations that base, specialists and fusing took: hundreds of passes over the shipped
# sample, and for models made elsewhere nobody knows how many. `ultrafuser baseline scratch` makes it on any data.
LEFT_OUT = ("scratch",)
OWN_STEPS = ("routing",)  # methods that train until they are done, whatever the steps
LEVEL_FROM, LEVEL_TO = 0.9, 1.1  # within these a method has taken the fused model's operations already


def method_names(plan: Plan, *, skip: tuple[str, ...] = ()) -> list[str]:
    """Every baseline in every form that a table wants, such as `further-tuned:code`, but those of the rows in `skip`.

    What trains on one domain's data alone ("further-tuned:code/math") is no rival on all of them, and left out; so is
    LEFT_OUT.
    """
    names = [
        f"{name}:{variant}" if variant else name
        for name, baseline in BASELINES.items()
        if name not in skip
        for variant in baseline.variants(plan.specialists, plan.domains)
        if "/" not in variant
    ]
    return [name for name in names if name not in LEFT_OUT]


def lacking(method: str) -> str:
    """The package that a method needs and this installation has not; empty where it has all."""
    needs = find_baseline(method)[0].needs
    return next((need for need in needs if need not in CONDITIONS and find_spec(need) is None), "")


def method_run(plan: Plan, method: str, seed: int) -> Run:
    """A baseline at equal data and steps: result["items"]["method"], what it took in "made", its losses in "curves"."""
    inputs = {"method": method, "seed": seed, "stages": plan.recipe["stages"], "keep": plan.keep}
    return Run(f"{_slug(method)}/seed-{seed}", make_method, inputs, cost=_cost(plan))


def method_run_with_steps(plan: Plan, method: str, seed: int, steps: int) -> Run:
    """`method_run` with other steps than the scale's."""
    usual = method_run(plan, method, seed)
    name = f"{_slug(method)}@{steps}-steps/seed-{seed}"
    return Run(name, make_method, {**usual.inputs, "steps": steps}, cost=usual.cost)


def equal_operations_run(plan: Plan, method: str, seed: int) -> Run:
    """The same baseline with as many steps as make up the fused model's training operations.

    result["items"] is empty, and result["why"] says why, where nothing is trained or the operations are equal anyway.
    """
    first, fused = method_run(plan, method, seed), fused_run(plan, seed)
    return Run(
        f"{_slug(method)}@operations/seed-{seed}",
        make_at_equal_operations,
        {**first.inputs, "fused": fused.name, "equal_steps": first.name},
        after=(fused, first),
        cost=2 * _cost(plan),
    )


def make_method(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Make the baseline, measure it on the held-out items; goes on after a kill as far as the baseline does."""
    from ultrafuser.baselines.making import make_baseline
    from ultrafuser.baselines.scores import open_made
    from ultrafuser.training.step_report import StepReport

    baseline, variant = find_baseline(inputs["method"])
    setting = context.setting(inputs["seed"])
    if inputs.get("steps"):
        setting = replace(setting, steps=inputs["steps"])
    callbacks = [StepReport(["train"], context.report)]
    setting = setting.into(context.folder / "model", variant, keep=inputs["keep"], callbacks=callbacks, overwrite=True)
    made = make_baseline(baseline, setting)
    if baseline.score is not None:
        context.report("measure", 0, 1, None)
        rows = [[row.id, row.domain, row.nats, row.tokens, []] for row in baseline.score(setting, "heldout").rows]
    else:
        assert made.folder is not None, f"{baseline.name} has neither a folder nor a rule to score it"
        model = open_made(setting, made.folder)
        rows = context.measure(model, setting.tokenizer, inputs["method"], {METHOD: None})[METHOD]
    plain = made.as_dict() | {"folder": None if made.folder is None else context.relative(made.folder)}
    return {"items": {METHOD: rows}, "made": plain, "folder": plain["folder"], "curves": _curves(setting.folder)}


def make_at_equal_operations(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """`make_method` with the steps scaled by the fused model's training operations over the method's own."""
    wanted = found[inputs["fused"]]["made"][ALL]["training_operations"]
    made = found[inputs["equal_steps"]]["made"]
    if not made["training_operations"]:
        return {"items": {}, "why": "nothing is trained"}
    ratio = wanted / made["training_operations"]
    if LEVEL_FROM <= ratio <= LEVEL_TO:
        return {"items": {}, "why": "takes the same operations at equal steps"}
    return make_method(context, {**inputs, "steps": max(1, round(made["steps"] * ratio))}, found)


def _curves(folder: Path) -> dict[str, Any]:
    """The losses of every training that the baseline left a history of, by the stage's name."""
    from ultrafuser.training.work import HISTORY_FILE

    found: dict[str, Any] = {}
    for file in sorted(folder.rglob(HISTORY_FILE)):
        history = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found |= {stage: curve(history, stage) for stage in dict.fromkeys(entry["stage"] for entry in history)}
    return found


def _slug(method: str) -> str:
    return method.replace(":", "=").replace("/", "+")


def _cost(plan: Plan) -> float:
    return training_cost(plan, plan.recipe["stages"], 2)
