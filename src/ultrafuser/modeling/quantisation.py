"""Weights kept as 8-bit or 4-bit integers (torchao), computed with in the number format of the hidden states.

Only the linear layers inside a specialist: its embeddings and its head, often one tensor, stay as they are, and so does
the gate. int8: one scale per output row (Dettmers et al. 2022, section 2.1). int4: a scale and a zero point for every
32 weights of a row; in bfloat16 alone, because the other formats fall back to code a hundred times slower on a CPU.
A quantised specialist stands still: rounding has no useful derivative.
"""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ultrafuser.lookup import lookup

__all__ = [
    "QUANTISATIONS",
    "check_quantisation",
    "is_quantised",
    "needed_format",
    "quantisation_of",
    "quantise",
    "stored_parts",
]

QUANTISATIONS = {"int8": 8, "int4": 4}
"""Bits per weight."""
GROUP = 32  # weights that share a scale in int4, as in GGUF's Q4_0
ROWS = 16  # the CPU's int4 kernel takes multiples of it


def check_quantisation(kind: str | None, field: str, dtype: torch.dtype | None = None) -> None:
    """Raise ValueError for an unknown kind, a number format that it does not go with, or where torchao is missing."""
    if kind is None:
        return
    lookup(QUANTISATIONS, kind, field)
    if find_spec("torchao") is None:
        raise ValueError(f"{field}: {kind} needs the package torchao: pip install 'ultrafuser[quantisation]'")
    if kind == "int4" and dtype not in (None, torch.bfloat16):
        raise ValueError(
            f"{field}: int4 computes in bfloat16, but the number format is {str(dtype).removeprefix('torch.')}; use "
            "dtype bfloat16, or int8"
        )


def needed_format(quantisation: Mapping[str, str | None], dtype: Any) -> Any:
    """The number format asked for; bfloat16 where none is and a specialist is to be int4."""
    return torch.bfloat16 if dtype in (None, "auto") and "int4" in quantisation.values() else dtype


def quantisation_of(specialist: Any) -> str | None:
    """How a specialist's weights are quantised; None where they are not."""
    return getattr(specialist, "ultrafuser_quantisation", None)


def quantise(specialist: Any, kind: str, field: str) -> Any:
    """Quantise a specialist where it lies, layer by layer, each freed as the next begins, and freeze it.

    In int4, layers whose shape does not fit (inputs in groups of 32, outputs of 16) stay as they are. Raises ValueError
    where no layer can be quantised, or it is quantised already.
    """
    check_quantisation(kind, field, specialist.dtype)
    if quantisation_of(specialist) is not None:
        raise ValueError(f"{field}: its weights are {quantisation_of(specialist)} already; open it anew for {kind}")
    from torchao.quantization import quantize_

    head = specialist.get_output_embeddings()
    layers = [part for part in specialist.base_model.modules() if type(part) is nn.Linear and part is not head]
    fitting = [layer for layer in layers if kind == "int8" or _fits_int4(layer.weight)]
    if not fitting:
        why = f"none of its {len(layers)} linear layers takes int4 (inputs in groups of {GROUP}, outputs of {ROWS})"
        why = why if layers else "it has no linear layers that are PyTorch's own"
        raise ValueError(f"{field}: {type(specialist).__name__} cannot be {kind}: {why}; leave quantisation out")
    config = _settings(kind, fitting[0].weight.device, field)
    specialist.requires_grad_(False)
    for layer in fitting:
        quantize_(layer, config)
    for parameter in specialist.parameters():
        if not is_quantised(parameter):
            parameter.data = parameter.data.clone()  # else one of them would keep the whole file mapped in memory
    _give_back()
    specialist.ultrafuser_quantisation = kind
    return specialist


def _give_back() -> None:
    """Hand the memory that rounding took back to the system; glibc would keep more than the integers need."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _fits_int4(weight: torch.Tensor) -> bool:
    return weight.shape[1] % GROUP == 0 and weight.shape[0] % ROWS == 0


def _settings(kind: str, device: torch.device, field: str) -> Any:
    """torchao's settings. Those of int4 differ by device: each has a layout of its own for its products."""
    from torchao import quantization

    if kind == "int8":
        return quantization.Int8WeightOnlyConfig()
    if device.type == "cuda":
        return quantization.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    if device.type != "cpu":
        raise ValueError(f"{field}: int4 works on cpu and cuda, not on {device.type}; use int8")
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    except ImportError as error:
        raise ValueError(f"{field}: int4 on a CPU needs torchao 0.18; install it, or use int8") from error
    return PrototypeInt4WeightOnlyConfig(group_size=GROUP)


def is_quantised(tensor: torch.Tensor) -> bool:
    """Whether a weight is kept as integers."""
    return hasattr(tensor, "__tensor_flatten__")


def stored_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that a weight is kept in: itself, or integers, scales and zero points of a quantised one."""
    if not is_quantised(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
        yield from stored_parts(getattr(tensor, name))
