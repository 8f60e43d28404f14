"""BTX: the specialists as experts of one sparse model with routers, tuned on everything (Ding et al., ACL 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ultrafuser.baselines.branching import TOP_K, at_every_linear_layer, at_feed_forward_blocks, differing_settings
from ultrafuser.baselines.expert_use import expert_use
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import train_plain
from ultrafuser.lookup import lookup

__all__ = ["btx", "btx_variants"]

FORMS: dict[str, tuple[Any, str]] = {
    "": (at_every_linear_layer, "every linear layer of the blocks"),
    "feed-forward": (at_feed_forward_blocks, "the feed-forward blocks"),
}


def btx_variants(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """Experts at every linear layer, as in the paper, and at the feed-forward blocks, as in the original."""
    return tuple(FORMS)


def btx(setting: Setting) -> Made:
    """The specialists as experts under top-2 routers, all other weights averaged, then everything tuned.

    Variant: "" has experts and a router at every linear layer (Ding et al., ACL 2025), `feed-forward` at the
    feed-forward blocks alone (Branch-Train-MiX, Sukhbaatar et al. 2024). Template: `Setting.template`. Raises
    ValueError where the specialists differ in architecture or shape.
    """
    make, place = lookup(FORMS, setting.variant, "variant")
    models = {name: setting.open(name) for name in setting.names}
    differing = differing_settings(models)
    if differing:
        setting.say(f"the specialists differ in {', '.join(differing)}; {setting.names[0]}'s are taken")
    model = make(models, seed=setting.seed)
    del models
    note = (
        f"The {len(setting.names)} specialists as experts at {place}, {TOP_K} of them for a token; the other weights "
        f"averaged, all tuned on all the data for {setting.steps} steps."
    )
    made = train_plain(setting, model, setting.template, method="btx", title="BTX", note=note)
    validation = setting.encoded([setting.template]).validation
    if validation is not None:
        made.chosen["expert_use"] = expert_use(model.eval(), validation, setting.names)
    return made
