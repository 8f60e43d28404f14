"""Opening what `pretrained=...` names: a fused model, any causal LM as a single specialist, or one of several alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from ultrafuser.evaluation.subjects.local import only_specialist
from ultrafuser.lookup import did_you_mean
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.specialists import Origin, is_folder_like, open_specialist, read_config, resolve

__all__ = ["Place", "choose_device", "locate", "open_model"]

FIELD = "pretrained"  # what lm-eval calls it


@dataclass(frozen=True)
class Place:
    """A model on this machine, whether it is a fused one, and its specialists' names."""

    origin: Origin
    fused: bool
    names: tuple[str, ...]


def locate(source: str, revision: str | None = None, only: str | None = None, field: str = FIELD) -> Place:
    """Find a model and look at its configuration, before any weights are read.

    `source` is a folder, a .gguf file or a Hub id. `revision` counts for a Hub id only, as in lm-eval. Raises
    ValueError for a model that is not there or cannot be read, and for a specialist `only` that it does not have.
    """
    origin = resolve(source, None if is_folder_like(source) else revision, field)
    config = read_config(origin.path, field)
    fused = config.model_type == "ultrafuser"
    name = origin.folder.name if origin.file is None else origin.path.stem
    place = Place(origin, fused, tuple(config.specialist_names) if fused else (name,))
    if only is not None and only not in place.names:
        choices = ", ".join(place.names)
        raise ValueError(f"only: {only!r} is not one of {choices}{did_you_mean(only, place.names)}")
    return place


def open_model(
    place: Place,
    *,
    only: str | None = None,
    dtype: torch.dtype | str | None = None,
    specialist_paths: Mapping[str, str] | None = None,
    quantise: str | None = None,
) -> UltraFuserForCausalLM:
    """The model at `place`; with `only`, that specialist alone, as a fused model of one.

    A plain causal LM keeps every row of its head and its own generation defaults, so that it scores as it would
    without us. `specialist_paths` say where a gate-only model finds its specialists; `quantise` is int8 or int4.
    """
    if not place.fused:
        if specialist_paths:
            raise ValueError(f"specialist_paths: {str(place.origin.path)!r} is no fused model, so it has none to find")
        return _single(place, dtype, quantise)
    model = UltraFuserForCausalLM.from_pretrained(
        place.origin.folder,
        dtype=dtype,
        specialist_paths=specialist_paths,
        quantisation=None if quantise is None else dict.fromkeys(place.names, quantise),
    )
    return model if only is None or len(place.names) == 1 else only_specialist(model, only)


def _single(place: Place, dtype: torch.dtype | str | None, quantise: str | None) -> UltraFuserForCausalLM:
    specialist = open_specialist(place.origin.path, dtype=dtype, field=FIELD, quantisation=quantise)
    (name,) = place.names
    model = UltraFuserForCausalLM.from_specialists({name: specialist}, vocab_size=_rows(specialist))
    if place.origin.file is not None:
        model.generation_config = GenerationConfig.from_model_config(specialist.config)
    elif specialist.generation_config is not None:
        model.generation_config = copy.deepcopy(specialist.generation_config)
    return model


def _rows(specialist: Any) -> int:
    return int(specialist.get_output_embeddings().weight.shape[0])


def choose_device(wanted: str | None) -> str:
    """The device asked for, or the fastest there is. Raises ValueError for one that this machine lacks."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted is None:
        return next(kind for kind, here in there.items() if here)
    kind, _, number = wanted.partition(":")
    if not there.get(kind) or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        have = ", ".join(name for name, here in there.items() if here)
        raise ValueError(f"device: {wanted!r} is not on this machine; there is {have}")
    return wanted
