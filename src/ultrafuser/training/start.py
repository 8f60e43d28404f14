"""A fused model that a training goes on from, in place of one put together from its specialists with a new gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultrafuser.hashing import content_hash
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.specialists import open_tokenizer, read_config, resolve
from ultrafuser.recipe import Recipe

__all__ = ["open_start", "start_mark"]


def open_start(folder: str | Path, recipe: Recipe, device: str) -> tuple[Any, Any]:
    """The fused model in a folder and its tokenizer; specialists, templates, gate and rule are the model's own.

    Raises ValueError where it is no fused model, where its specialists' weights are left out, and where names of
    specialists, gate or rule are others than the recipe's.
    """
    place = resolve(folder, field="--start")
    config: Any = read_config(place.path, "--start")
    if config.model_type != "ultrafuser":
        raise ValueError(f"--start: {str(folder)!r} holds no fused model; name one that `train` or `add` wrote")
    if config.gate_only:
        raise ValueError(
            f"--start: {str(folder)!r} holds a gate alone, and a training needs the specialists' weights too; save it "
            "without --gate-only"
        )
    found = {
        "specialists": (sorted(config.specialist_names), sorted(recipe.specialists)),
        "gate.type": (config.gate["type"], recipe.gate.type),
        "fusion.rule": (config.fusion["rule"], recipe.fusion.rule),
    }
    for field, (has, wanted) in found.items():
        if has != wanted:
            raise ValueError(
                f"--start: {field} is {_shown(has)} in {str(folder)!r}, but {_shown(wanted)} in the recipe"
            )
    dtype: dict[str, Any] = {} if recipe.dtype == "auto" else {"dtype": recipe.dtype}
    model = UltraFuserForCausalLM.from_pretrained(place.folder, device_map={"": device}, **dtype)
    return model, open_tokenizer(place, "--start")


def start_mark(folder: str | Path | None) -> dict[str, str]:
    """What the fingerprint of a run says of its start: nothing without one, else the content of its weights."""
    return {} if folder is None else {"start": content_hash(resolve(folder, field="--start").folder)}


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else repr(value)
