"""Runs that train the fused model otherwise than the paper: a gate started without training, a low-rank second stage,
and a temperature chosen after training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ultrafuser.recipe import StageConfig
from ultrafuser.reproduce.cells import MEAN
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.experiments import fused_run, train_opened, training_cost
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run
from ultrafuser.reproduce.scales import ALL

TEMPERATURES = (0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 4.0)


def started_run(plan: Plan, seed: int, name: str, *, examples: int, steps: int) -> Run:
    """Stage 2 alone after `training.gate_start`, as `fused_run`; result["start"] says what the start took and gave."""
    inputs = {**_inputs(plan, seed, plan.recipe["stages"][-1:]), "examples": examples, "newton_steps": steps}
    cost = training_cost(plan, inputs["stages"], len(plan.specialists))
    return Run(f"{name}/seed-{seed}", train_started, inputs, cost=cost)


def low_rank_run(plan: Plan, seed: int, name: str, *, rank: int, rate: float) -> Run:
    """Both stages, but in the second each specialist learns through low-rank adapters, at `rate` times its rate.

    The adapters are worked into the weights in the end, so that an ordinary model is left.
    """
    gate, full = plan.recipe["stages"]
    stages = [gate, {**full, "learning_rate": full["learning_rate"] * rate}]
    inputs = {**_inputs(plan, seed, stages), "rank": rank}
    return Run(f"{name}/seed-{seed}", train_low_rank, inputs, cost=training_cost(plan, stages, len(plan.specialists)))


def tempered_run(plan: Plan, seed: int, name: str) -> Run:
    """The fused model with the temperature that is best on the validation data; result["validation"] holds all."""
    fused = fused_run(plan, seed)
    inputs = {"seed": seed, "fused": fused.name, "temperatures": list(TEMPERATURES)}
    return Run(f"{name}/seed-{seed}", choose_temperature, inputs, after=(fused,), cost=60.0)


def _inputs(plan: Plan, seed: int, stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"seed": seed, "stages": [dict(s) for s in stages], "weights": None, "keep": plan.keep}


def train_started(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Start the gate, anew whenever the run is gone on with: it is drawn from the seed; then train."""
    from ultrafuser.training.gate_start import start_gate

    recipe = context.plan.open_recipe(inputs["seed"])
    model, tokenizer = context.build(recipe)
    train = context.material(recipe, model.config.templates, tokenizer).train
    start = start_gate(
        model,
        train,
        examples_per_category=inputs["examples"],
        steps=inputs["newton_steps"],
        seed=inputs["seed"],
        batch_size=context.plan.batch_size,
        progress=lambda done, total: context.report("read for the start", done, total, None),
    )
    result = train_opened(context, inputs, recipe, model, tokenizer)
    result["start"] = start.as_dict()
    operations = start_operations(model, train, start.examples, inputs["newton_steps"])
    for made in result["made"].values():
        made["training_operations"] += operations
    return result


def start_operations(model: Any, train: Any, examples: Sequence[int], steps: int) -> int:
    """By the baselines' rule: one reading, and for each step features, equations and their solution."""
    from ultrafuser.baselines.counting import FROZEN, model_operations, parameters, read_lengths

    tokens = sum(train.examples[i].n_response_tokens for i in examples)
    reading = sum(
        model_operations(specialist, read, tokens, learns=False)
        for specialist, read in zip(model.specialists, read_lengths(train, examples), strict=True)
    )
    width, rows = model.gate.inner.out_features, tokens * model.n_specialists
    each = FROZEN * rows * (parameters(model.gate) + width**2) + 2 * width**3 // 3
    return reading + steps * each


def train_low_rank(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Put an adapter on every specialist, train, and work the adapters in."""
    from ultrafuser.baselines.counting import low_rank_saving, parameters
    from ultrafuser.training import Adapter
    from ultrafuser.training.parameters import ADAPTER_MARK
    from ultrafuser.training.specialising import with_adapter

    recipe = context.plan.open_recipe(inputs["seed"])
    model, tokenizer = context.build(recipe)
    adapter = Adapter(rank=inputs["rank"], alpha=2.0 * inputs["rank"])
    wrapped = [
        with_adapter(specialist, adapter, 1000 * inputs["seed"] + j) for j, specialist in enumerate(model.specialists)
    ]
    stages = [StageConfig(**stage) for stage in inputs["stages"]]
    train = context.material(recipe, model.config.templates, tokenizer).train
    gate = parameters(model.gate)
    adapters = sum(p.numel() for one in wrapped for name, p in one.named_parameters() if ADAPTER_MARK in name)
    savings = [low_rank_saving(model, stages[: place + 1], train, seed=recipe.seed) for place in range(len(stages))]

    def work_in(trained: Any) -> None:
        for one in wrapped:
            one.merge_and_unload()

    result = train_opened(context, inputs, recipe, model, tokenizer, finish=work_in)
    for stage, saving in zip(stages, savings, strict=True):
        made = result["made"][stage.name]
        made["training_operations"] -= saving
        made["parameters_trained"] = gate + (adapters if stage.train == "all" else 0)
        made["parameters_used"] -= adapters
    return result


def choose_temperature(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Read the validation data at each temperature, then the held-out items at the best, which is kept in a model."""
    from ultrafuser.baselines.scores import open_made
    from ultrafuser.modeling import save_fused
    from ultrafuser.reproduce.cells import Item, loss_cells

    setting, fused = context.setting(inputs["seed"]), found[inputs["fused"]]
    model, domains = open_made(setting, context.path_of(fused)), context.plan.domains
    recipe = context.plan.open_recipe(inputs["seed"])
    validation = context.material(recipe, model.config.templates, setting.tokenizer).validation
    assert validation is not None, "the fused model was chosen on it"
    losses: dict[float, float] = {}
    for temperature in inputs["temperatures"]:
        model.gate.set_temperature(temperature)
        rows = context.read(model, validation, f"validate at {temperature:g}", {"all": None})["all"]
        losses[temperature] = loss_cells([[Item.of(row) for row in rows]], domains, domains)[MEAN].mean
    best = min(losses, key=lambda temperature: losses[temperature])
    model.gate.set_temperature(best)
    model.config.gate["temperature"] = best
    items = context.measure(model, setting.tokenizer, f"at {best:g}", {ALL: None})
    save_fused(model, setting.tokenizer, context.folder / "model", overwrite=True)
    return {
        "items": items,
        "temperature": best,
        "validation": {f"{temperature:g}": loss for temperature, loss in losses.items()},
        "made": {ALL: fused["made"][ALL]},
        "folder": context.relative(context.folder / "model"),
    }
