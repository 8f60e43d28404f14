"""The gate-only form of a checkpoint: the gate's weights (megabytes) and, for each specialist, where it lies and the
hash of its weights. At load the specialists are opened one by one, each checked first, and joined as they are.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from transformers import GenerationConfig
from transformers.utils import cached_file

from ultrafuser.hashing import content_hash
from ultrafuser.modeling import assemble
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.manner import Manner
from ultrafuser.modeling.placement import Placement, dispatch, read_device_map
from ultrafuser.modeling.quantisation import quantisation_of
from ultrafuser.modeling.specialists import Origin, number_format, open_specialist, resolve
from ultrafuser.modeling.unchanged import check_unchanged

if TYPE_CHECKING:
    from ultrafuser.modeling.model import UltraFuserForCausalLM

WEIGHTS = "model.safetensors"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")
# Of Transformers' from_pretrained: settled here already, or of no effect on weights that are opened one by one.
_HARMLESS = frozenset({
    "config", "trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "weights_only", "ignore_mismatched_sizes",
    "disable_mmap", "tqdm_class", "adapter_kwargs", "_from_auto", "_from_pipeline", "_commit_hash",
})  # fmt: skip


def write_gate(model: "UltraFuserForCausalLM", folder: Path, final: Path) -> None:
    """The gate and where the specialists lie into `folder`, which will be known as `final`.

    Raises ValueError where a specialist has no files to point at, or has changed since it was opened.
    """
    config = copy.deepcopy(model.config)
    config.gate_only = True
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    for name, entry, specialist in zip(config.specialist_names, config.sources, model.specialists, strict=True):
        origin: Origin | None = getattr(specialist, "ultrafuser_origin", None)
        if origin is None:
            raise ValueError(
                f"specialists.{name}: fused from memory or from a self-contained checkpoint, so a gate-only checkpoint "
                "has nothing to point at; save without gate_only, or fuse from folders or Hub ids"
            )
        check_unchanged(name, specialist, origin)
        if origin.hub_id is None:
            entry["folder"] = str(origin.path)
            entry["folder_from_here"] = os.path.relpath(origin.path, final.resolve())
    state = {f"gate.{key}": value.detach().cpu().contiguous() for key, value in model.gate.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def load_gate(
    model_class: "type[UltraFuserForCausalLM]",
    path: str | os.PathLike,
    config: UltraFuserConfig,
    specialist_paths: Mapping[str, str | os.PathLike],
    quantisation: Mapping[str, str | None],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Behind `from_pretrained` of a gate-only checkpoint; `options` are Transformers' (number format, devices, ...).

    Raises ValueError for a specialist that is missing or another one, TypeError for an option that has no meaning here.
    """
    names = config.specialist_names
    for name in specialist_paths:
        if name not in names:
            raise ValueError(f"specialist_paths.{name}: no such specialist; there are {', '.join(names)}")
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    generation = options.pop("generation_config", None) or GenerationConfig.from_pretrained(path, **hub)
    wants_report = options.pop("output_loading_info", False)
    attention = options.pop("attn_implementation", None) or config._attn_implementation
    stored = {name: entry.get("quantisation") for name, entry in zip(names, config.sources, strict=True)}
    quantisation = stored | dict(quantisation)
    dtype = _number_format(options, config)
    Manner(dtype=dtype, quantisation=quantisation).check(names)
    placement = read_device_map(options, names)
    if arguments or options.keys() - _HARMLESS:
        what = ", ".join(sorted(options.keys() - _HARMLESS)) or "positional arguments"
        raise TypeError(f"from_pretrained: {what} cannot be used with a gate-only checkpoint ({str(path)!r})")
    gate_state = load_file(str(cached_file(path, WEIGHTS, **hub)))
    origins = [
        _verified(name, entry, specialist_paths.get(name), path)
        for name, entry in zip(names, config.sources, strict=True)
    ]
    specialists = [
        open_specialist(
            origin.path, dtype=dtype, device=placement.of(j), field=f"specialists.{name}",
            attn_implementation=attention, config=sub_config, quantisation=quantisation[name],
        )
        for j, (name, origin, sub_config) in enumerate(zip(names, origins, config.specialist_configs, strict=True))
    ]  # fmt: skip
    for specialist, origin in zip(specialists, origins, strict=True):
        specialist.ultrafuser_origin = origin
    model = _join(model_class, config, specialists, gate_state, placement)
    model.generation_config, model.tokenizer_place = generation, str(path)
    report: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
    return (model, report | {"error_msgs": []}) if wants_report else model


def _join(
    model_class: "type[UltraFuserForCausalLM]",
    config: UltraFuserConfig,
    specialists: list[Any],
    gate_state: Mapping[str, Any],
    placement: Placement,
) -> "UltraFuserForCausalLM":
    """The fused model around opened specialists, its gate's weights from the checkpoint, spread over the devices."""
    config = copy.deepcopy(config)
    config.gate_only = False
    for entry, specialist in zip(config.sources, specialists, strict=True):
        for field in ("folder", "folder_from_here", "quantisation"):
            entry.pop(field, None)
        if quantisation_of(specialist) is not None:
            entry["quantisation"] = quantisation_of(specialist)
    config.dtype = specialists[0].dtype
    model = assemble.join(model_class, config, specialists)
    try:
        model.gate.load_state_dict({key.removeprefix("gate."): value for key, value in gate_state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"gate: the weights in {WEIGHTS} are not those of its configuration ({reason})") from error
    if placement.gate is not None:
        model.gate.to(placement.gate)
    return dispatch(model, placement)


def _number_format(options: dict[str, Any], config: UltraFuserConfig) -> Any:
    """The number format asked for, or the one that the checkpoint was saved in."""
    older, wanted = options.pop("torch_dtype", None), options.pop("dtype", None)
    wanted = older if wanted is None else wanted
    return number_format(config.dtype if wanted in (None, "auto") else wanted, "dtype")


def _verified(name: str, entry: Mapping[str, Any], given: str | os.PathLike | None, path: str | os.PathLike) -> Origin:
    """Where specialist `name` lies, its weights checked against the hash. Raises ValueError where it is another one."""
    field = f"specialists.{name}"
    if given is not None:
        origin = resolve(given, field=f"specialist_paths.{name}")
    elif entry.get("id"):
        origin = resolve(entry["id"], entry.get("revision"), field)
    else:
        nearby = Path(path) / entry.get("folder_from_here", "")
        folder = nearby if entry.get("folder_from_here") and nearby.exists() else Path(entry.get("folder") or "?")
        if not folder.exists():
            raise ValueError(
                f"{field}: folder {str(folder)!r} does not exist any more; say where it is now with "
                f"specialist_paths={{{name!r}: ...}}"
            )
        origin = resolve(folder, field=field)
    found, expected = content_hash(origin.path), entry.get("sha256")
    if found != expected:
        raise ValueError(
            f"{field}: the weights in {str(origin.path)!r} have SHA-256 {found}, but this gate belongs to "
            f"{expected}; point at the right ones with specialist_paths={{{name!r}: ...}}, or train a gate for these"
        )
    return origin
