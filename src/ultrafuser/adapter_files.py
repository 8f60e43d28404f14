"""A low-rank adapter's folder in PEFT's format: what it is and sits on, from its small files and the header of its
weights; no PyTorch. The layers that an adapter changes are told by its weights, not by its list of names."""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrafuser.safetensors_files import Tensor, main_dtype, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NOTE = "ultrafuser.json"  # written by `ultrafuser specialise`: {"base_sha256": content hash of the base}

# Settings that the stacked layers do not know, with the values under which they change nothing, as None always does.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "modules_to_save": (),
    "bias": ("none",),
    "lora_bias": (False,),
    "trainable_token_indices": (),
    "target_parameters": (),
    "layer_replication": (),
    "megatron_config": (),
    "alora_invocation_tokens": (),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "arrow_config": (),
    "kasa_config": (),
    "velora_config": (),
    "monteclora_config": (),
    # the others (pissa, olora, corda, loftq, ...) change the weights of the base
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
_MERGE = "merge it into its base with PEFT (merge_and_unload) and name the merged folder"
_PART = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_HEADS = ("lm_head", "embed_out", "output_projection")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Target:
    """One layer that an adapter changes: y + scaling * B A x, A (rank, n_in), B (n_out, rank)."""

    rank: int
    scaling: float
    n_in: int
    n_out: int


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter as far as its small files tell. `targets` by the layer's name in the base, in order of name."""

    folder: Path
    rank: int  # the largest of its layers
    alpha: float  # as its configuration names it; `targets` have what follows from patterns and rsLoRA
    use_rslora: bool
    targets: dict[str, Target]
    base: str | None  # base_model_name_or_path
    base_revision: str | None
    base_sha256: str | None  # content hash of the base it was trained on, where that is known
    dtype: str

    @property
    def parameters(self) -> int:
        """Its weights."""
        return sum(one.rank * (one.n_in + one.n_out) for one in self.targets.values())


def is_adapter(folder: str | os.PathLike) -> bool:
    """Whether a folder holds an adapter and no complete model."""
    return (Path(folder) / CONFIG).is_file() and not (Path(folder) / "config.json").is_file()


def read_adapter(folder: str | os.PathLike, field: str) -> AdapterFacts:
    """The adapter in a folder; nothing but JSON and the header of its weights is read.

    Raises ValueError, one line with `field`, folder, setting, value and fix, for whatever the stacked layers do not do
    (DoRA, bias, saved modules, adapters on embedding or head, other kinds than LoRA, initialisations that change the
    base, ...), for missing or torn weights and for weights that do not fit the configuration.
    """
    folder = Path(folder)
    where = f"{field}: {str(folder)!r}"
    config = _json(folder / CONFIG, where)
    _check_settings(config, where)
    tensors = _weights(folder, where)
    targets = {name: _target(name, *pair, config, where) for name, pair in sorted(_pairs(tensors, where).items())}
    return AdapterFacts(
        folder=folder,
        rank=max(one.rank for one in targets.values()),
        alpha=float(config["lora_alpha"]),
        use_rslora=bool(config.get("use_rslora")),
        targets=targets,
        base=config.get("base_model_name_or_path") or None,
        base_revision=config.get("revision") or None,
        base_sha256=_base_sha256(folder / NOTE, where),
        dtype=main_dtype(tensors.values()),
    )


def find_base(facts: AdapterFacts, base: str | None, revision: str | None, field: str) -> tuple[str, str | None]:
    """The source and revision of an adapter's base: as given, or as its configuration names it.

    A relative path in the configuration starts from the adapter's folder or, as in PEFT, from the current one. Raises
    ValueError where nothing names a base, or the configuration names one that is not here and has no revision.
    """
    if base is not None:
        return base, revision
    where = f"{field}: the adapter in {str(facts.folder)!r}"
    if facts.base is None:
        raise ValueError(f"{where} names no base model; name it as the specialist's base")
    if facts.base_revision is not None and not Path(facts.base).exists():
        return facts.base, facts.base_revision
    for place in (facts.folder / os.path.expanduser(facts.base), Path(os.path.expanduser(facts.base))):
        if place.exists():
            return str(place.absolute()), None
    raise ValueError(
        f"{where} names the base {facts.base!r}, which is not here; name it as the specialist's base: a folder, a "
        ".gguf file, or a Hub id with base_revision"
    )


def _json(file: Path, where: str) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{where} holds no adapter: it has no {file.name}; give the folder that PEFT saved")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: {file.name} cannot be read ({error}); copy or download it again") from None
    if not isinstance(data, dict):
        raise ValueError(f"{where}: {file.name} is not a JSON object; copy or download it again")
    return data


def _check_settings(config: Mapping[str, Any], where: str) -> None:
    kind = config.get("peft_type")
    if str(kind).upper() != "LORA":
        raise ValueError(f"{where} has peft_type: {kind!r}; only LORA adapters can be stacked: {_MERGE}")
    for name, plain in _PLAIN.items():
        value = config.get(name)
        if value not in (None, [], {}, *plain):
            raise ValueError(f"{where} has {name}: {json.dumps(value)}, which cannot be stacked; {_MERGE}")
    for name in ("r", "lora_alpha"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{where} has {name}: {json.dumps(value)}; it must be a number above 0: save it again")
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise ValueError(f"{where} has {name}: {json.dumps(config[name])}; it must be a mapping: save it again")


def _weights(folder: Path, where: str) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(file.name for file in folder.glob("adapter_model.bin"))
        if pickled:
            raise ValueError(f"{where} has its weights pickled ({pickled[0]}); save it as safetensors with PEFT")
        raise ValueError(f"{where} has {CONFIG} but no weights; add {WEIGHTS}, or train it again")
    try:
        tensors = read_header(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: {error}; copy or download it again") from None
    if not tensors:
        raise ValueError(f"{where}: {WEIGHTS} is empty; train or save the adapter again")
    return tensors


def _pairs(tensors: Mapping[str, Tensor], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer."""
    found: dict[str, dict[str, Tensor]] = {}
    other = []
    for name, tensor in tensors.items():
        part = _PART.fullmatch(name)
        if part is not None and part["module"].rpartition(".")[2] in _HEADS:
            raise ValueError(f"{where} changes the head {part['module']!r}, which all on one base share; {_MERGE}")
        if part is None or len(tensor.shape) != 2:
            other.append(name)
        else:
            found.setdefault(part["module"], {})[part["side"]] = tensor
    if other:
        first = next((name for name in other if "lora_embedding_" in name), other[0])
        kind = " (an adapter on an embedding)" if "lora_embedding_" in first else ""
        raise ValueError(f"{where} holds {first}{kind}, no weight of a linear layer's low-rank adapter; {_MERGE}")
    for module, sides in found.items():
        if len(sides) < 2:
            (side,) = sides
            raise ValueError(f"{where}: {module} has lora_{side} alone; copy or save the adapter again")
    return {module: (sides["A"], sides["B"]) for module, sides in found.items()}


def _target(name: str, A: Tensor, B: Tensor, config: Mapping[str, Any], where: str) -> Target:
    rank, alpha = (
        _by_pattern(config.get(f"{kind}_pattern") or {}, name, config[key], where)
        for kind, key in (("rank", "r"), ("alpha", "lora_alpha"))
    )
    if not A.shape[0] == B.shape[1] == rank:
        raise ValueError(
            f"{where}: {name} has weights of shape {list(A.shape)} and {list(B.shape)}, but its configuration says "
            f"rank {rank}; copy or save the adapter again"
        )
    return Target(int(rank), alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), A.shape[1], B.shape[0])


def _by_pattern(patterns: Mapping[str, Any], name: str, usual: Any, where: str) -> float:
    """The first pattern's value that fits the end of a layer's name, as PEFT matches it."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return float(value)
        except (re.error, TypeError, ValueError):
            raise ValueError(f"{where}: the pattern {pattern!r}: {value!r} is not usable; save it again") from None
    return float(usual)


def _base_sha256(file: Path, where: str) -> str | None:
    if not file.is_file():
        return None
    value = _json(file, where).get("base_sha256")
    if value is not None and not (isinstance(value, str) and _SHA256.fullmatch(value)):
        raise ValueError(f"{where}: {NOTE} has base_sha256: {json.dumps(value)}, no hash; copy it again, or delete it")
    return value
