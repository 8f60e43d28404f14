"""Choosing on the validation data: losses of the specialists, and the lowest mean over the domains."""

from __future__ import annotations

from collections.abc import Mapping

from ultrafuser.baselines.scores import part_of
from ultrafuser.baselines.setting import Setting

__all__ = ["best_on_validation", "validation_losses"]

Losses = Mapping[str, Mapping[str, float]]  # choice -> domain -> nats per token


def validation_losses(setting: Setting) -> dict[str, dict[str, float]]:
    """Validation loss of each specialist alone, in its own template, by domain: nats per response token."""
    from ultrafuser.training import evaluate_many

    names, n = setting.names, len(setting.names)
    fused = setting.fuse({name: setting.open(name) for name in names}, setting.templates)
    weightings = {name: [float(j == place) for j in range(n)] for place, name in enumerate(names)}
    found = evaluate_many(fused, part_of(setting.material, "validation"), weightings)
    return {name: loss.by_category() for name, loss in found.items()}


def best_on_validation(losses: Losses) -> str:
    """The choice with the lowest mean over the domains; the first of equals."""
    return min(losses, key=lambda choice: sum(losses[choice].values()) / len(losses[choice]))
