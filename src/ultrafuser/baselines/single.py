"""One plain model of about the fused size: grown from the common base, or from random weights at equal compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ultrafuser.baselines.budget import earlier_operations, fit_stages, fusing_operations
from ultrafuser.baselines.counting import parameters
from ultrafuser.baselines.growing import deepen, layers_to_add, widened_config
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import train_plain

__all__ = ["scratch", "single"]

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
        f"model has about {size:,}), tuned on all the data."
    )
    return train_plain(setting, grown, setting.template, method="single", title="One larger model", note=note)


def scratch(setting: Setting) -> Made:
    """One model of about the fused size, from random weights, on everything.

    Variant: "" trains with as many operations as base, specialists and fusing took together (see `budget`),
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
    stage, budget = setting.stage("scratch"), None
    if setting.variant != EQUAL_STEPS:
        budget = _budget(setting)
        setting = replace(setting, operations=None)  # it has a budget of its own
        train = setting.encoded([setting.template]).train
        fused = setting.fuse({"scratch": model}, {"scratch": setting.template})
        [stage] = fit_stages(fused, [stage], train, budget, seed=setting.seed, gate_learns=False)
    steps = stage.steps
    changes: dict[str, Any] = {"warmup_steps": max(stage.warmup_steps, steps // 50)}
    if setting.material.validation is not None:
        setting = replace(setting, keep="best")
        changes["eval_every"] = max(stage.eval_every, -(-steps // EVALUATIONS))
    stage = setting.stage("scratch", steps=steps, learning_rate=SCRATCH_RATE * stage.learning_rate, **changes)
    cost = "the same steps as the others" if budget is None else f"{budget:.3g} operations"
    note = (
        f"{parameters(model):,} parameters from random weights, trained on all the data for {cost} ({steps:,} steps)."
    )
    return train_plain(
        setting, model, setting.template, method="scratch", stages=[stage], title="From scratch", note=note
    )


def _budget(setting: Setting) -> int:
    if not setting.variant:
        return earlier_operations(setting) + fusing_operations(setting)
    try:
        budget = int(float(setting.variant))
    except (ValueError, OverflowError):
        budget = 0
    if budget < 1:
        raise ValueError(f"variant: {setting.variant!r} is neither {EQUAL_STEPS} nor a number of operations as 2e14")
    return budget


def _fused_size(setting: Setting) -> int:
    """Parameters of all specialists together."""
    return sum(parameters(setting.open(name)) for name in setting.names)
