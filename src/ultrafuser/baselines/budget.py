"""Training budgets in operations: what fusing takes, what the zoo's models took, and steps that spend a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ultrafuser.baselines.counting import LEARNS, model_parts, stage_operations
from ultrafuser.data import ResponseDataset
from ultrafuser.recipe import StageConfig

if TYPE_CHECKING:
    from ultrafuser.baselines.setting import Setting

__all__ = ["earlier_operations", "fit_stages", "fusing_operations"]

PROBE_STEPS = 50  # that tell how many tokens a step has on average


def fit_stages(
    fused: Any,
    stages: Sequence[StageConfig],
    train: ResponseDataset,
    operations: int,
    *,
    seed: int,
    gate_learns: bool = True,
) -> list[StageConfig]:
    """The stages with as many steps in the last as bring the training nearest to `operations` in all, at least one.

    Raises ValueError where the stages before the last take more than that.
    """
    *before, last = stages
    spent = stage_operations(fused, before, train, seed=seed, gate_learns=gate_learns)
    if spent >= operations:
        raise ValueError(
            f"--operations: {operations:.3g} leaves none for the stage {last.name!r}; those before it take {spent:.3g}"
        )
    probe = StageConfig(**(last.model_dump() | {"steps": PROBE_STEPS, "warmup_steps": 0, "stored_states": None}))
    each = stage_operations(fused, [probe], train, seed=seed, gate_learns=gate_learns) / PROBE_STEPS
    steps = max(1, round((operations - spent) / each))
    warmup = min(last.warmup_steps, steps - 1)
    return [*before, StageConfig(**(last.model_dump() | {"steps": steps, "warmup_steps": warmup}))]


def fusing_operations(setting: Setting) -> int:
    """Training operations of the recipe's own stages on its fused model: what a comparator of equal cost may spend."""
    recipe = setting.recipe
    opened = {name: setting.open(name) for name in setting.names}
    gate, fusion = recipe.gate.model_dump(exclude_none=True), recipe.fusion.model_dump()
    fused = setting.fuse(opened, setting.templates, gate=gate, fusion=fusion)
    return stage_operations(fused, recipe.stages, setting.material.train, seed=setting.seed)


def earlier_operations(setting: Setting) -> int:
    """Training operations of base and specialists before they were fused.

    The zoo's cards say how many tokens each of its models was trained on, the base counted once; every parameter of a
    product learned on all of them. Raises ValueError for other specialists, whose past nobody knows.
    """
    from ultrafuser import zoo

    sources = {name: spec.source for name, spec in setting.recipe.specialists.items()}
    for name, source in sources.items():
        if not source.startswith("zoo:"):
            raise ValueError(
                f"variant: nobody knows how much training {name} has had; name the operations (scratch:2e14) or take "
                "the steps of the others (scratch:equal-steps)"
            )
    names = {zoo.BASE, *(source.removeprefix("zoo:") for source in sources.values())}
    training = zoo.summary()["training"] | {name: zoo.extra_summary(name)["training"] for name in names & {*zoo.EXTRAS}}
    seen = sum(training[name]["tokens_seen"] for name in names)
    return LEARNS * sum(model_parts(setting.open_base())) * seen
