"""Low-rank adapters on one base: specialists that share every weight of the base and run as one stacked batch.

Legend: I and O inputs and outputs of a layer, r rank. A shared module's batch is specialist-major: specialists with an
adapter first, then those that are the base alone.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ultrafuser.modeling.adapted_linear import AdaptedLinear, check_layers, linear_layers
from ultrafuser.modeling.quantisation import quantisation_of
from ultrafuser.modeling.specialists import Origin

ROWS = "ultrafuser_rows"  # attribute of a shared module: what each of its specialists is


class Matrices(NamedTuple):
    """What an adapter adds to one layer: y + scaling * B A x, A (r, I), B (O, r)."""

    A: torch.Tensor
    B: torch.Tensor
    scaling: float


@dataclass(frozen=True)
class Row:
    """One specialist of a shared module: rank and scaling by layer, none for the base alone; where it lies."""

    layers: Mapping[str, tuple[int, float]]
    origin: Origin | None = None


@dataclass(frozen=True)
class Adapter:
    """One specialist's matrices by the name of the layer in the base, and where they were read."""

    layers: Mapping[str, Matrices]
    origin: Origin | None = None

    def check(self, base: PreTrainedModel, field: str) -> None:
        """Raise ValueError where a layer is not in `base`, is not linear, or has other sizes."""
        check_layers({name: (one.A.shape[1], one.B.shape[0]) for name, one in self.layers.items()}, base, field)


# ---- one module, several specialists ----


def stack_rows(module: PreTrainedModel, rows: Sequence[Row]) -> None:
    """Give `module` adapters of zeros for `rows`, those with layers first, and freeze its own weights."""
    adapted = [row for row in rows if row.layers]
    assert list(rows[: len(adapted)]) == adapted, "specialists with an adapter come first"
    for name, layer in linear_layers(module).items():
        shapes = [row.layers.get(name, (0, 0.0)) for row in adapted]
        if any(rank for rank, _ in shapes):
            device = next(layer.parameters()).device
            module.set_submodule(name, AdaptedLinear(layer, shapes, len(rows), module.dtype, device))
    setattr(module, ROWS, list(rows))
    freeze_base(module)


def is_shared(module: nn.Module) -> bool:
    """Whether a module runs several specialists, or one with an adapter, as one stacked batch."""
    return hasattr(module, ROWS)


def freeze_base(module: nn.Module) -> None:
    """Freeze a shared module but for its adapters."""
    for name, parameter in module.named_parameters():
        if ".lora_" not in name:
            parameter.requires_grad_(False)


def share(base: PreTrainedModel, adapters: Sequence[Adapter | None]) -> list["SharedSpecialist"]:
    """Specialists on `base`, in the order of `adapters`; None is the base alone. The base is changed in place.

    Every adapter must have passed its `check`. The adapters' matrices are copied, in the base's number format.
    """
    order = sorted(range(len(adapters)), key=lambda i: adapters[i] is None)
    chosen = [adapters[i] for i in order]
    stack_rows(base, [_row(adapter, base) for adapter in chosen])
    with torch.no_grad():
        for name, layer in _adapted(base).items():
            for j, adapter in enumerate(chosen):
                if adapter is not None and name in adapter.layers:
                    one = adapter.layers[name]
                    layer.lora_A[j, : one.A.shape[0]].copy_(one.A)
                    layer.lora_B[j, :, : one.A.shape[0]].copy_(one.B)
    return [SharedSpecialist(base, order.index(i)) for i in range(len(adapters))]


def _row(adapter: Adapter | None, base: PreTrainedModel) -> Row:
    if adapter is None:
        return Row({}, getattr(base, "ultrafuser_origin", None))
    return Row({name: (one.A.shape[0], one.scaling) for name, one in adapter.layers.items()}, adapter.origin)


def _adapted(module: nn.Module) -> dict[str, AdaptedLinear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, AdaptedLinear)}


def bare(module: PreTrainedModel) -> PreTrainedModel:
    """The base without adapters as a model of its own that shares its weights."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    result = copy.deepcopy(module, memo)
    for name, layer in _adapted(result).items():
        result.set_submodule(name, layer.base)
    vars(result).pop(ROWS, None)
    return result


def regroup(specialists: Sequence[Any]) -> list[Any]:
    """The same specialists, those that share a base's weights in one module that holds exactly them, in this order.

    Where that takes a new module it shares the base's weights, and has copies of the adapters. A base left alone
    becomes an ordinary specialist.
    """
    result = list(specialists)
    by_base: dict[int, list[int]] = {}
    for i, specialist in enumerate(result):
        if isinstance(specialist, SharedSpecialist):
            by_base.setdefault(id(specialist.get_input_embeddings().weight), []).append(i)
    for places in by_base.values():
        members = [result[i] for i in places]
        in_order = sorted(members, key=lambda member: not member.row.layers)
        module = members[0].module
        if len(members) == 1 and not members[0].row.layers:
            result[places[0]] = bare(module)
            continue
        rows = [member.place for member in in_order if member.module is module]
        if rows != list(range(len(getattr(module, ROWS)))) or len(rows) < len(members):
            members = share(bare(module), [member.adapter() for member in members])
        for i, member in zip(places, members, strict=True):
            result[i] = member
    return result


class SharedSpecialist:
    """One of the specialists that a module runs together, as far as it can be told apart: its settings and weights."""

    def __init__(self, module: PreTrainedModel, place: int) -> None:
        """`place`: which of the module's rows it is."""
        self.module = module
        self.place = place

    @property
    def row(self) -> Row:
        """Its layers and where it lies."""
        return getattr(self.module, ROWS)[self.place]

    @property
    def ultrafuser_origin(self) -> Origin | None:
        """Where the adapter, or the base alone, lies; None where that is not known."""
        return self.row.origin

    @property
    def base_origin(self) -> Origin | None:
        """Where the base lies; None where that is not known."""
        return getattr(self.module, "ultrafuser_origin", None)

    @property
    def ultrafuser_quantisation(self) -> str | None:
        """How the base's weights are quantised; None where they are not."""
        return quantisation_of(self.module)

    @property
    def config(self) -> Any:
        """The base's configuration."""
        return self.module.config

    @property
    def generation_config(self) -> Any:
        """The base's."""
        return self.module.generation_config

    @property
    def dtype(self) -> torch.dtype:
        """The base's number format."""
        return self.module.dtype

    @property
    def device(self) -> torch.device:
        """The base's device."""
        return self.module.device

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""
        return self.module.training

    def train(self, mode: bool = True) -> "SharedSpecialist":
        """Put the module, and so all its specialists, in training mode."""
        self.module.train(mode)
        return self

    def eval(self) -> "SharedSpecialist":
        """Put the module, and so all its specialists, in evaluation mode."""
        return self.train(False)

    def to(self, dtype: torch.dtype) -> "SharedSpecialist":
        """Bring the adapters of the module to a number format; the base keeps its own."""
        for layer in _adapted(self.module).values():
            layer.lora_A.data, layer.lora_B.data = layer.lora_A.data.to(dtype), layer.lora_B.data.to(dtype)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The base's."""
        return self.module.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The base's: one object for all its specialists."""
        return self.module.get_output_embeddings()

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The base's parameters and this specialist's part of the stacked adapters, without padding."""
        for name, parameter in self.module.named_parameters():
            if ".lora_" not in name:
                yield name, parameter
        for name, one in self._matrices().items():
            yield f"{name}.lora_A", one.A
            yield f"{name}.lora_B", one.B

    def parameters(self) -> Iterator[torch.Tensor]:
        """As `named_parameters`."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The base's."""
        return self.module.named_buffers()

    def adapter(self) -> Adapter | None:
        """Its matrices, sharing memory with the stacked ones; None for the base alone."""
        return Adapter(self._matrices(), self.row.origin) if self.row.layers else None

    def alone(self) -> PreTrainedModel:
        """An ordinary model that is this specialist alone; it shares the base's weights and copies the adapter."""
        return share(bare(self.module), [self.adapter()])[0].module

    def _matrices(self) -> dict[str, Matrices]:
        found = {}
        for name, (rank, scaling) in self.row.layers.items():
            layer = self.module.get_submodule(name)
            assert isinstance(layer, AdaptedLinear)
            found[name] = Matrices(layer.lora_A[self.place, :rank], layer.lora_B[self.place, :, :rank], scaling)
        return found
