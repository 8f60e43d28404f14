"""Adapters in PEFT's format as specialists: found among the sources, held against their base before anything is loaded,
read, and written back."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from ultrafuser.adapter_files import CONFIG, NOTE, WEIGHTS, AdapterFacts, find_base, is_adapter, read_adapter
from ultrafuser.files import write_json
from ultrafuser.hashing import content_hash
from ultrafuser.modeling.adapted_linear import check_layers
from ultrafuser.modeling.adapters import Adapter, Matrices, SharedSpecialist, share
from ultrafuser.modeling.specialists import Origin, read_config, resolve
from ultrafuser.modeling.storage import staged

PREFIX = "base_model.model."  # of every name in PEFT's file


@dataclass
class Found:
    """The adapters among the sources. `complete` are the models to open: {name: (place or model, field)}.

    A base that is no specialist itself stands there under the name of the first adapter on it; `on` says for every
    adapter, and for every specialist that is a base, under which name its base is opened.
    """

    complete: dict[str, tuple[Any, str]] = field(default_factory=dict)
    adapters: dict[str, tuple[AdapterFacts, Origin]] = field(default_factory=dict)
    on: dict[str, str] = field(default_factory=dict)

    def attach(self, opened: Mapping[str, PreTrainedModel], names: list[str]) -> dict[str, Any]:
        """The specialists in the order of `names`, those on one base sharing it; `opened` are the complete models."""
        result: dict[str, Any] = dict(opened)
        for label in dict.fromkeys(self.on.values()):
            members = [name for name in names if self.on.get(name) == label]
            adapters = [read_matrices(*self.adapters[name]) if name in self.adapters else None for name in members]
            result |= zip(members, share(opened[label], adapters), strict=True)
        return {name: result[name] for name in names}


def find_adapters(
    sources: Mapping[str, Any],
    revisions: Mapping[str, str],
    bases: Mapping[str, Any],
    base_revisions: Mapping[str, str],
) -> Found:
    """Tell adapters from complete models and find their bases.

    Raises ValueError, before any weights of a base are loaded, for adapters that cannot be stacked, bases that are
    missing, are not those the adapter was trained on (by hash, where it records one) or lack a layer it changes.
    """
    for name in (*bases, *base_revisions):
        if name not in sources:
            raise ValueError(f"bases.{name}: no such specialist; there are {', '.join(sources)}")
    found, hashes = Found(), {}  # type: tuple[Found, dict[Path, str]]
    places: dict[str, Any] = {}  # of the complete models
    labels: dict[Any, str] = {}  # name under which the model at a place is opened
    for name, source in sources.items():
        place = _place(source, revisions.get(name), f"specialists.{name}")
        adapter = adapter_of(place, None, f"specialists.{name}")
        if adapter is not None:
            found.adapters[name] = adapter
            continue
        if name in bases:
            raise ValueError(
                f"specialists.{name}.base: {bases[name]!r} given, but its source is a complete model, not an adapter "
                f"(no {CONFIG}); remove the base"
            )
        found.complete[name] = (source if isinstance(source, PreTrainedModel) else place, f"specialists.{name}")
        places[name] = place
        labels.setdefault(place, name)
    for name, (facts, _) in found.adapters.items():
        where = f"specialists.{name}.base"
        base, revision = find_base(facts, bases.get(name), base_revisions.get(name), f"specialists.{name}")  # type: ignore[arg-type]
        place = _place(base, revision, where)
        if isinstance(place, Origin):
            check_base(facts, place.path, where, hashes)
        else:
            check_layers(_layers(facts), place, where)
        if place not in labels:
            labels[place] = name
            found.complete[name] = (base if isinstance(base, PreTrainedModel) else place, where)
        found.on[name] = labels[place]
    for name, place in places.items():
        if labels[place] in found.on.values():
            found.on[name] = labels[place]
            if name != labels[place]:
                del found.complete[name]
    return found


def adapter_of(source: Any, revision: str | None, field: str) -> tuple[AdapterFacts, Origin] | None:
    """The adapter that a source is, or None. Raises ValueError where it is one that cannot be stacked."""
    origin = _place(source, revision, field)
    if not isinstance(origin, Origin) or origin.file is not None or not is_adapter(origin.folder):
        return None
    return read_adapter(origin.folder, field), origin


def _place(source: Any, revision: str | None, field: str) -> Any:
    """What tells a model from others: where it lies, or the model itself where that is not known."""
    if isinstance(source, PreTrainedModel):
        return getattr(source, "ultrafuser_origin", None) or source
    return source if isinstance(source, Origin) else resolve(source, revision, field)


def check_base(facts: AdapterFacts, base: Path, where: str, hashes: dict[Path, str] | None = None) -> None:
    """Hold an adapter against its base without loading it. Raises ValueError where it was trained on another."""
    if facts.base_sha256 is not None:
        hashes = {} if hashes is None else hashes
        if base not in hashes:
            hashes[base] = content_hash(base)
        if hashes[base] != facts.base_sha256:
            raise ValueError(
                f"{where}: the weights in {str(base)!r} have SHA-256 {hashes[base]}, but the adapter in "
                f"{str(facts.folder)!r} was trained on {facts.base_sha256}; name the base that it was trained on"
            )
    with torch.device("meta"):
        check_layers(_layers(facts), AutoModelForCausalLM.from_config(read_config(base, where)), where)


def _layers(facts: AdapterFacts) -> dict[str, tuple[int, int]]:
    return {name: (target.n_in, target.n_out) for name, target in facts.targets.items()}


def read_matrices(facts: AdapterFacts, origin: Origin) -> Adapter:
    """The weights of an adapter that `read_adapter` has found whole."""
    tensors = load_file(facts.folder / WEIGHTS)
    layers = {
        name: Matrices(
            tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"], target.scaling
        )
        for name, target in facts.targets.items()
    }
    return Adapter(layers, origin)


def base_hash(specialist: Any, entry: Mapping[str, Any]) -> str | None:
    """Content hash of a specialist's base, its own where it is none; `entry` is its record in `config.sources`.

    As recorded, else of its files; None where neither is known.
    """
    recorded = entry.get("base", entry).get("sha256")
    origin = getattr(specialist, "base_origin", None) or getattr(specialist, "ultrafuser_origin", None)
    return recorded if recorded is not None or origin is None else content_hash(origin.path)


def write_adapter(specialist: Any, folder: str | os.PathLike, entry: Mapping[str, Any], name: str) -> None:
    """Write a specialist's adapter as PEFT would, with the hash of its base. Raises ValueError where it has none."""
    adapter = specialist.adapter() if isinstance(specialist, SharedSpecialist) else None
    if adapter is None:
        raise ValueError(f"specialists.{name}: is no adapter on a base but a complete model; save that as a whole")
    if (Path(folder) / CONFIG).exists():
        raise ValueError(f"output: folder {str(folder)!r} already holds an adapter; choose another folder")
    origin = specialist.base_origin
    base = entry["base"].get("id") or (str(origin.path) if origin is not None else None)
    tensors = {}
    for layer, one in adapter.layers.items():
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = one.A.detach().cpu().contiguous()
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = one.B.detach().cpu().contiguous()
    with staged(folder) as place:
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        (place / CONFIG).write_text(json.dumps(_peft_settings(adapter, base), indent=2) + "\n", encoding="utf-8")
        note_base(place, base_hash(specialist, entry))


def note_base(folder: Path, sha256: str | None) -> None:
    """Record the content hash of the base beside an adapter, where it is known."""
    if sha256 is not None:
        write_json(folder / NOTE, {"base_sha256": sha256})


def _peft_settings(adapter: Adapter, base: str | None) -> dict[str, Any]:
    """PEFT's settings: rank and alpha of most layers, the others by pattern."""
    shapes = {layer: (one.A.shape[0], one.scaling * one.A.shape[0]) for layer, one in adapter.layers.items()}
    (rank, alpha), _ = Counter(shapes.values()).most_common(1)[0]
    others = {layer: shape for layer, shape in shapes.items() if shape != (rank, alpha)}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {layer: shape[0] for layer, shape in others.items()},
        "alpha_pattern": {layer: shape[1] for layer, shape in others.items()},
        "target_modules": sorted(shapes),
        "bias": "none",
    }
