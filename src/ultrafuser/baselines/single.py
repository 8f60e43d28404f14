"""One plain model of about the fused size: grown from the common base, or from random weights at equal compute."""

from __future__ import annotations

from typing import Any

import torch

from ultrafuser.baselines.counting import LEARNS, model_parts, parameters, stage_operations, tokens_read
from ultrafuser.baselines.growing import deepen, layers_to_add, widened_config
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import train_plain

__all__ = ["operations_so_far", "scratch", "single"]

EQUAL_STEPS = "equal-steps"
SCRATCH_RATE = 5.0
EVALUATIONS = 50


def single(setting: Setting) -> Made:
    """One model of about the fused size that starts where the specialists started, tuned on everything.

    The paper takes Llama-30B for a trio of 13B (Ding et al., ACL 2025, table 1). Few families have a larger member of
    the same start, so ours is the common base made deeper by layers that change nothing at first (`growing.deepen`): it
    has learned exactly what the base has. Template: `Setting.template`.
    """
    base = setting.open_base()
    size = _fused_size(setting)
    added = layers_to_add(base, size)
    grown = deepen(base, added)
    note = (
        f"The base with {added} layers added that change nothing at first ({parameters(grown):,} parameters, the fused "
        f"model has about {size:,}), tuned on all the data for {setting.steps} steps."
    )
    return train_plain(setting, grown, setting.template, method="single", title="One larger model", note=note)


def scratch(setting: Setting) -> Made:
    """One model of about the fused size, from random weights, on everything.

    Variant: "" trains with as many operations as base, specialists and fusing took together (`operations_so_far`),
    `2e14` with as many as that, `equal-steps` for the setting's steps. It is as deep as the base, and wider. It learns
    at SCRATCH_RATE times the recipe's rate (which is for tuning), and where there is validation data it keeps its best
    weights: going through a small data set hundreds of times, the last would be a straw man.
    """
    base = setting.open_base()
    config = widened_config(base.config, _fused_size(setting), type(base))
    model_class, dtype = type(base), base.dtype
    del base
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        model = model_class(config).to(dtype=dtype, device=setting.device).eval()
    stage = setting.stage("scratch")
    steps, budget = setting.steps, None
    if setting.variant != EQUAL_STEPS:
        budget = _budget(setting)
        steps = _steps_for(setting, model, budget)
    changes: dict[str, Any] = {"steps": steps, "learning_rate": SCRATCH_RATE * stage.learning_rate}
    changes["warmup_steps"] = max(stage.warmup_steps, steps // 50)
    if setting.material.validation is not None:
        setting = setting.into(setting.folder, setting.variant, keep="best")
        changes["eval_every"] = max(stage.eval_every, -(-steps // EVALUATIONS))
    stage = setting.stage("scratch", **changes)
    cost = "the same steps as the others" if budget is None else f"{budget:.3g} operations"
    note = (
        f"{parameters(model):,} parameters from random weights, trained on all the data for {cost} ({steps:,} steps)."
    )
    return train_plain(
        setting, model, setting.template, method="scratch", stages=[stage], title="From scratch", note=note
    )


def operations_so_far(setting: Setting) -> int:
    """Training operations of base, specialists and fusing, by the rule of `counting`.

    The zoo's cards say how many tokens each of its models was trained on (the base once); every parameter of a product
    learned on all of them. Raises ValueError for other specialists, whose past nobody knows.
    """
    from ultrafuser import zoo

    sources = {name: spec.source for name, spec in setting.recipe.specialists.items()}
    shipped = {name: source.removeprefix("zoo:") for name, source in sources.items() if source.startswith("zoo:")}
    if len(shipped) < len(sources):
        other = next(name for name in sources if name not in shipped)
        raise ValueError(
            f"variant: nobody knows how much training {other} has had; name the operations (scratch:2e14) or the "
            f"recipe's steps (scratch:{EQUAL_STEPS})"
        )
    opened = {name: setting.open(name) for name in setting.names}
    training = zoo.summary()["training"]
    parts = model_parts(opened[setting.names[0]])
    seen = sum(training[name]["tokens_seen"] for name in {zoo.BASE, *shipped.values()})
    gate, fusion = setting.recipe.gate.model_dump(exclude_none=True), setting.recipe.fusion.model_dump()
    fused = setting.fuse(opened, setting.templates, gate=gate, fusion=fusion)
    fusing = stage_operations(fused, setting.fused_stages, setting.material.train, seed=setting.seed)
    return LEARNS * sum(parts) * seen + fusing


def _budget(setting: Setting) -> int:
    if not setting.variant:
        return operations_so_far(setting)
    try:
        budget = int(float(setting.variant))
    except (ValueError, OverflowError):
        budget = 0
    if budget < 1:
        raise ValueError(f"variant: {setting.variant!r} is neither {EQUAL_STEPS} nor a number of operations as 2e14")
    return budget


def _steps_for(setting: Setting, model: Any, budget: int) -> int:
    """Steps of the comparator's stage that take `budget` operations, by the tokens that a step has on average."""
    train = setting.encoded([setting.template]).train
    probe = setting.stage("scratch", steps=50, warmup_steps=0)
    tokens, parts = tokens_read(train, probe, seed=1000 * setting.seed), model_parts(model)
    each = LEARNS * (parts.body * tokens.read[0] + parts.head * tokens.response) / probe.steps
    return max(1, round(budget / each))


def _fused_size(setting: Setting) -> int:
    """Parameters of all specialists together."""
    return sum(parameters(setting.open(name)) for name in setting.names)
