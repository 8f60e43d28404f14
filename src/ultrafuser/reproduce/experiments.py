"""The runs that tables are made of: the specialists as they come, and trainings of fused models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ultrafuser.recipe import Recipe, StageConfig
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run

UNIFORM = "uniform"
FUSED = "fused"
# Seconds on one core for one conversation of the shipped sample in one shipped specialist; other sizes only shift them.
LEARN, READ = 0.017, 0.006
START = 5.0


def specialists_run(plan: Plan) -> Run:
    """Each specialist alone, and all with equal weights: result["items"] by name and "uniform"."""
    return Run("specialists", read_specialists, {}, cost=START + 4.0)


def fused_run(
    plan: Plan,
    seed: int,
    name: str = FUSED,
    *,
    stages: Sequence[StageConfig] | None = None,
    changes: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    keep: str | None = None,
) -> Run:
    """A fused model trained and measured after each stage: result["items"] by the stage's name.

    `stages` None are the plan's; `changes` replace whole fields of the recipe, such as {"gate": {"type": "joint"}};
    `weights` are forced in the gate's place; `keep` None is the plan's. result["folder"] holds the model.
    """
    chosen = plan.recipe["stages"] if stages is None else [stage.model_dump(mode="json") for stage in stages]
    inputs = {
        "seed": seed,
        "stages": chosen,
        "changes": dict(changes or {}),
        "weights": None if weights is None else list(weights),
        "keep": plan.keep if keep is None else keep,
    }
    n = len((changes or {}).get("specialists", plan.recipe["specialists"]))
    return Run(f"{name}/seed-{seed}", train_fused, inputs, cost=training_cost(plan, chosen, n))


def fused_runs(plan: Plan, name: str = FUSED, **settings: Any) -> list[Run]:
    """`fused_run` for every seed of the plan."""
    return [fused_run(plan, seed, name, **settings) for seed in plan.seeds]


def training_cost(plan: Plan, stages: Sequence[Mapping[str, Any]], n_specialists: int) -> float:
    """About how many seconds a training and its measuring take on one core, at the size of the shipped trio."""
    read = 0.0
    for stage in stages:
        each = READ if stage["train"] == "gate" else LEARN
        read += stage["steps"] * stage["examples_per_category"] * len(plan.domains) * each
    return START + n_specialists * (read + 8.0)


def read_specialists(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Held-out items as each specialist reads them in its own template, and as their uniform mixture does."""
    model, tokenizer = context.build(context.plan.open_recipe())
    names, n = list(model.config.specialist_names), model.n_specialists
    alone = {name: [float(place == j) for j in range(n)] for place, name in enumerate(names)}
    items = context.measure(model, tokenizer, "the specialists", {**alone, UNIFORM: [1 / n] * n})
    parameters = [sum(p.numel() for p in specialist.parameters()) for specialist in model.specialists]
    return {"items": items, "specialists": names, "parameters": dict(zip(names, parameters, strict=True))}


def train_fused(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Train a fused model through its stages, measure it after each and save it; goes on after a kill."""
    recipe = context.plan.open_recipe(inputs["seed"], inputs["changes"])
    return train_opened(context, inputs, recipe, *context.build(recipe))


def train_opened(
    context: Context,
    inputs: Mapping[str, Any],
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    finish: Callable[[Any], None] = lambda model: None,
    callbacks: Sequence[Any] = (),
) -> Result:
    """`train_fused` of a model that was opened already, and changed; `finish(model)` comes before it is saved.
    `callbacks` of the Trainer look on.

    The change must be the same whenever the run is gone on with.
    """
    from ultrafuser.modeling import save_fused
    from ultrafuser.training import run_stages
    from ultrafuser.training.step_report import StepReport

    stages = [StageConfig(**stage) for stage in inputs["stages"]]
    material = context.material(recipe, model.config.templates, tokenizer)
    reporter = StepReport([f"train {stage.name}" for stage in stages], context.report)
    items: dict[str, Any] = {}

    def after_stage(stage: StageConfig, trained: Any) -> None:
        reporter.next()
        items.update(context.measure(trained, tokenizer, f"after {stage.name}", {stage.name: inputs["weights"]}))

    output = context.folder / "model"
    result = run_stages(
        model,
        tokenizer,
        stages,
        material.train,
        material.validation,
        output,
        seed=recipe.seed,
        callbacks=[reporter, *callbacks],
        keep=inputs["keep"],
        forced_gate_weights=inputs["weights"],
        after_stage=after_stage,
        eval_batch_size=context.plan.batch_size,
        tensorboard=False,
        overwrite=True,  # of a model that was saved just before a kill; the same run is gone on with
    )
    made = cost_of(model, stages, material.train, recipe.seed, inputs["weights"] is None)
    finish(model)
    save_fused(model, tokenizer, output, overwrite=True)
    return {
        "items": items,
        "specialists": list(model.config.specialist_names),
        "folder": context.relative(output),
        "curves": {stage.name: curve(result.history, stage.name) for stage in stages},
        "stages": [{"name": s.name, "before": s.before, "after": s.after, "best": s.best} for s in result.stages],
        "made": made,
        "data": material.as_dict(),
    }


def cost_of(
    model: Any, stages: Sequence[StageConfig], train: Any, seed: int, gate_learns: bool = True
) -> dict[str, Any]:
    """Parameters trained and used, training operations and steps after each stage, by the baselines' rule."""
    from ultrafuser.baselines.counting import parameters, stage_operations

    gate, body = parameters(model.gate), parameters(*model.specialists)
    made = {}
    for place, stage in enumerate(stages):
        so_far = stages[: place + 1]
        made[stage.name] = {
            "parameters_trained": gate * any(s.train != "specialists" for s in so_far)
            + body * any(s.train != "gate" for s in so_far),
            "parameters_used": parameters(model),
            "training_operations": stage_operations(model, so_far, train, seed=seed, gate_learns=gate_learns),
            "steps": sum(s.steps for s in so_far),
        }
    return made


def curve(history: Sequence[Mapping[str, Any]], stage: str) -> dict[str, list[Any]]:
    """Training loss by step and validation losses by domain out of a training's history."""
    prefix = "eval_loss_"
    found: dict[str, list[Any]] = {"steps": [], "loss": [], "validation_steps": [], "validation": []}
    for entry in history:
        if entry["stage"] != stage:
            continue
        if "loss" in entry:
            found["steps"].append(int(entry["step"]))
            found["loss"].append(float(entry["loss"]))
        losses = {key.removeprefix(prefix): float(value) for key, value in entry.items() if key.startswith(prefix)}
        if losses:
            found["validation_steps"].append(int(entry["step"]))
            found["validation"].append(losses)
    return found
