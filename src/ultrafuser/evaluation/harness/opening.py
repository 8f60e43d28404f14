"""Opening what `pretrained=...` names: a fused model, any causal LM as a single specialist, or one of several alone."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ultrafuser.lookup import did_you_mean
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.specialists import is_folder_like, open_specialist, read_config, resolve

__all__ = ["Place", "locate", "open_model"]

FIELD = "pretrained"


@dataclass(frozen=True)
class Place:
    """A model on this machine: its folder, the GGUF file in it where it is one, and its specialists' names."""

    folder: Path
    gguf_file: str | None
    fused: bool
    names: tuple[str, ...]


def locate(source: str, revision: str | None = None, only: str | None = None) -> Place:
    """Find a model and look at its configuration, before any weights are read.

    `source` is a folder, a .gguf file or a Hub id. `revision` counts for a Hub id only, as in lm-eval. Raises
    ValueError for a model that is not there or cannot be read, and for a specialist `only` that it does not have.
    """
    path = Path(os.path.expanduser(source))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"{FIELD}: file {source!r} does not exist; check the path")
        place = Place(path.resolve().parent, path.name, False, (path.stem,))
    else:
        folder = resolve(source, None if is_folder_like(source) else revision, FIELD).folder
        config = read_config(folder, FIELD)
        fused = config.model_type == "ultrafuser"
        place = Place(folder, None, fused, tuple(config.specialist_names) if fused else (folder.name,))
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
) -> UltraFuserForCausalLM:
    """The model at `place`; with `only`, that specialist alone, as a fused model of one.

    A plain causal LM keeps every row of its head and its own generation defaults, so that it scores as it would
    without us. `specialist_paths` say where a gate-only model finds its specialists.
    """
    if not place.fused:
        if specialist_paths:
            raise ValueError(f"specialist_paths: {str(place.folder)!r} is no fused model, so it has none to find")
        return _single(place, dtype)
    model = UltraFuserForCausalLM.from_pretrained(place.folder, dtype=dtype, specialist_paths=specialist_paths)
    return model if only is None or len(place.names) == 1 else _alone(model, place.names.index(only))


def _single(place: Place, dtype: torch.dtype | str | None) -> UltraFuserForCausalLM:
    source = place.folder if place.gguf_file is None else place.folder / place.gguf_file
    specialist = open_specialist(source, dtype=dtype, field=FIELD)
    (name,) = place.names
    model = UltraFuserForCausalLM.from_specialists({name: specialist}, vocab_size=_rows(specialist))
    if specialist.generation_config is not None:
        model.generation_config = copy.deepcopy(specialist.generation_config)
    return model


def _alone(model: UltraFuserForCausalLM, j: int) -> UltraFuserForCausalLM:
    name, specialist = model.config.specialist_names[j], model.specialists[j]
    alone = UltraFuserForCausalLM.from_specialists(
        {name: specialist}, templates=[model.config.templates[j]], vocab_size=model.config.vocab_size
    )
    alone.generation_config = copy.deepcopy(model.generation_config)
    return alone


def _rows(specialist: Any) -> int:
    return int(specialist.get_output_embeddings().weight.shape[0])
