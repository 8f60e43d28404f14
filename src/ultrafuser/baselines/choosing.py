"""Choosing on the validation data: losses of the specialists, and the lowest mean over the domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ultrafuser.baselines.scores import part_of
from ultrafuser.baselines.setting import Setting

if TYPE_CHECKING:
    from ultrafuser.training import ResponseLoss

__all__ = ["best_on_validation", "specialist_losses", "validation_losses"]

Losses = Mapping[str, Mapping[str, float]]  # choice -> domain -> nats per token


def specialist_losses(setting: Setting, part: str) -> dict[str, ResponseLoss]:
    """Each specialist alone, in its own template, on a part of the data, read in one pass."""
    from ultrafuser.training import evaluate_many

    names, n = setting.names, len(setting.names)
    fused = setting.fuse({name: setting.open(name) for name in names}, setting.templates)
    weightings = {name: [float(j == place) for j in range(n)] for place, name in enumerate(names)}
    return evaluate_many(fused, part_of(setting.material, part), weightings)


def validation_losses(setting: Setting) -> dict[str, dict[str, float]]:
    """Validation loss of each specialist alone by domain: nats per response token."""
    return {name: loss.by_category() for name, loss in specialist_losses(setting, "validation").items()}


def best_on_validation(losses: Losses) -> str:
    """The choice with the lowest mean over the domains; the first of equals."""
    return min(losses, key=lambda choice: sum(losses[choice].values()) / len(losses[choice]))
