"""The specialists as they are: one alone, and mixtures whose weights are the same at every token."""

from __future__ import annotations

from typing import Any

from ultrafuser.baselines.choosing import best_on_validation, validation_losses
from ultrafuser.baselines.counting import parameters
from ultrafuser.baselines.scores import part_of
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import save_fuser, train_fuser
from ultrafuser.lookup import lookup

__all__ = ["fixed", "specialist", "uniform", "uniform_trained"]

FIXED_RATE = 0.1
STORED_BYTES = 1 << 30  # hidden states up to this size are kept on disk rather than computed at every step


def specialist(setting: Setting) -> Made:
    """A specialist alone: nothing is trained or copied, the result points at its folder or file.

    Variant: its name; "" takes the one with the lowest mean validation loss.
    """
    name, chosen = setting.variant, {}
    if not name:
        part_of(setting.material, "validation")
        losses = validation_losses(setting)
        name = best_on_validation(losses)
        chosen = {"specialist": name, "validation_losses": losses}
    lookup(setting.origins, name, "variant")
    count = parameters(setting.open(name))
    note = f"The specialist {name} as it is, in its own template."
    return Made(setting.origins[name].path, 0, count, 0, 0, note, chosen)


def uniform(setting: Setting) -> Made:
    """All specialists with equal weights at every token; nothing is trained. Saved as a constant gate."""
    fused = _constant(setting)
    save_fuser(setting, fused, gate_only=True)
    note = f"The {len(setting.names)} specialists with equal weights at every token, nothing trained."
    return Made(setting.folder, 0, parameters(fused), 0, 0, note)


def fixed(setting: Setting) -> Made:
    """The best mixture whose weights do not look at the text: one learned number per specialist, specialists frozen.

    With logits fused the loss is convex in the weights, so training finds the best ones. The recipe's rate is for a
    network: in its few hundred steps it could not bring these logits far enough, so they learn at FIXED_RATE.
    """
    from ultrafuser.training.stored import bytes_needed

    fused = _constant(setting)
    stage = setting.stage("fixed", "gate", learning_rate=FIXED_RATE, weight_decay=0.0)
    if bytes_needed(fused, setting.material.train) <= STORED_BYTES:
        stage = setting.stage("fixed", "gate", learning_rate=FIXED_RATE, weight_decay=0.0, stored_states="exact")
    note = f"One learned weight per specialist, the same at every token, {stage.steps} steps at {FIXED_RATE:g}."
    made = train_fuser(setting, fused, [stage], method="fixed", note=note, gate_only=True)
    weights = fused.gate.logits.detach().softmax(0).tolist()
    made.chosen["weights"] = dict(zip(setting.names, weights, strict=True))
    return made


def uniform_trained(setting: Setting) -> Made:
    """The control that isolates the gate: equal weights, and the specialists learn on what every method learns on."""
    n = len(setting.names)
    stage = setting.stage("uniform")
    note = f"Equal weights at every token; the {n} specialists trained together for {stage.steps} steps."
    return train_fuser(setting, _constant(setting), [stage], method="uniform-trained", forced=[1 / n] * n, note=note)


def _constant(setting: Setting) -> Any:
    """The specialists under a constant gate, all weights equal, with the recipe's fusion rule."""
    rule = {"rule": setting.recipe.fusion.rule}
    opened = {name: setting.open(name) for name in setting.names}
    return setting.fuse(opened, setting.templates, gate="constant", fusion=rule)
