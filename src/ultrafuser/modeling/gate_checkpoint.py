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

from ultrafuser.modeling import assemble
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.gate_places import check_names, find_places, forget_places, note_places, open_group
from ultrafuser.modeling.manner import Manner
from ultrafuser.modeling.placement import Placement, dispatch, read_device_map
from ultrafuser.modeling.quantisation import quantisation_of
from ultrafuser.modeling.specialists import number_format

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
    note_places(model, config, final)
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
    check_names(config, specialist_paths)
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    generation = options.pop("generation_config", None) or GenerationConfig.from_pretrained(path, **hub)
    wants_report = options.pop("output_loading_info", False)
    attention = options.pop("attn_implementation", None) or config._attn_implementation
    stored = {name: entry.get("quantisation") for name, entry in zip(names, config.sources, strict=True)}
    quantisation = stored | dict(quantisation)
    dtype = _number_format(options, config)
    manner = Manner(dtype=dtype, quantisation=quantisation).check(names)
    placement = read_device_map(options, [group.name for group in config.groups])
    if arguments or options.keys() - _HARMLESS:
        what = ", ".join(sorted(options.keys() - _HARMLESS)) or "positional arguments"
        raise TypeError(f"from_pretrained: {what} cannot be used with a gate-only checkpoint ({str(path)!r})")
    gate_state = load_file(str(cached_file(path, WEIGHTS, **hub)))
    places = find_places(config, specialist_paths, path)
    specialists: list[Any] = [None] * config.n_specialists
    for g, group in enumerate(config.groups):
        members = [names[j] for j in group.members]
        settings = manner.together(members, members[0]) | {"device": placement.of(g), "dtype": dtype}
        opened = open_group(config, group, places, attn_implementation=attention, **settings)
        for j, specialist in zip(group.members, opened, strict=True):
            specialists[j] = specialist
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
    forget_places(config)
    for entry, specialist in zip(config.sources, specialists, strict=True):
        entry.pop("quantisation", None)
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
