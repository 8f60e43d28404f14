"""One specialist tuned further, on everything or on one domain's data (Ding et al., ACL 2025, tables 1 and 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ultrafuser.baselines.choosing import best_on_validation, validation_losses
from ultrafuser.baselines.scores import part_of
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import train_plain
from ultrafuser.lookup import lookup

__all__ = ["further_tuned", "further_variants"]


def further_variants(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """The best on validation, each specialist on everything, and each on the domain that bears its name."""
    return ("", *names, *(f"{name}/{name}" for name in names if name in domains))


def further_tuned(setting: Setting) -> Made:
    """Tune a specialist in its own template, for the setting's steps.

    Variant: "" takes the specialist with the lowest mean validation loss, `code` the one of that name, `code/math` has
    it learn from the domain math alone, in batches of the same size. Raises ValueError for an unknown name.
    """
    name, _, subset = setting.variant.partition("/")
    chosen: dict[str, Any] = {}
    if subset:
        lookup(dict.fromkeys(setting.domains), subset, "variant")
    if name:
        lookup(setting.origins, name, "variant")
    else:
        part_of(setting.material, "validation")
        losses = validation_losses(setting)
        name = best_on_validation(losses)
        chosen = {"specialist": name, "validation_losses": losses}
    stage = setting.stage("further")
    if subset:
        stage = setting.stage("further", examples_per_category=stage.examples_per_category * len(setting.domains))
    data = f"the data of {subset} alone" if subset else "all the data"
    return train_plain(
        setting,
        setting.open(name),
        setting.templates[name],
        method="further-tuned",
        stages=[stage],
        domains=[subset] if subset else None,
        title=f"{name}, further tuned",
        note=f"The specialist {name} tuned on {data} for {stage.steps} steps, in its own template.",
        chosen=chosen,
    )
