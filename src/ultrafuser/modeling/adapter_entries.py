"""What the configuration keeps of specialists that share a base, and the module that is built from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ultrafuser.modeling.adapted_linear import linear_layers
from ultrafuser.modeling.adapters import Row, SharedSpecialist, stack_rows
from ultrafuser.modeling.configuration import Group, UltraFuserConfig

Layers = Mapping[str, tuple[int, float]]


def entries(names: Sequence[str], specialists: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """`UltraFuserConfig.adapters` for these specialists, groups numbered as they come."""
    modules: list[Any] = []
    found = {}
    for name, specialist in zip(names, specialists, strict=True):
        if isinstance(specialist, SharedSpecialist):
            if not any(specialist.module is module for module in modules):
                modules.append(specialist.module)
            group = next(i for i, module in enumerate(modules) if module is specialist.module)
            found[name] = {"group": group, "layers": compact(specialist.row.layers, specialist.module)}
    return found


def compact(layers: Layers, module: PreTrainedModel) -> dict[str, list[Any]]:
    """[rank, scaling] by the last part of a name where all layers of that name are alike, else by the full name."""
    kinds: dict[str, list[str]] = {}
    for name in linear_layers(module):
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    result: dict[str, list[Any]] = {}
    for kind, names in kinds.items():
        shapes = {layers.get(name) for name in names}
        if len(shapes) == 1 and None not in shapes and kind not in names:
            result[kind] = list(layers[names[0]])
        else:
            result |= {name: list(layers[name]) for name in names if name in layers}
    return result


def expand(entry: Mapping[str, Sequence[Any]], module: PreTrainedModel) -> dict[str, tuple[int, float]]:
    """The layers that `compact` wrote down, by their full names."""
    found = {name: entry.get(name) or entry.get(name.rpartition(".")[2]) for name in linear_layers(module)}
    return {name: (int(shape[0]), float(shape[1])) for name, shape in found.items() if shape}


def build_module(
    config: UltraFuserConfig, group: Group, sub_config: PreTrainedConfig, options: Mapping[str, Any]
) -> PreTrainedModel:
    """The module of a group from the configuration alone, its weights still to be loaded."""
    module = AutoModelForCausalLM.from_config(sub_config, dtype=torch.get_default_dtype(), **options)
    named = [config.adapters.get(config.specialist_names[j]) for j in group.members]
    if named[0] is not None:
        stack_rows(module, [Row(expand(entry["layers"], module)) for entry in named if entry is not None])
    return module
