"""Float32 on a CPU, two to three times as fast: weights laid out once as oneDNN wants them, for passes that only read.

The plain layers are the slow reference: the same products in another order of summation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ultrafuser.modeling.quantisation import is_quantised

__all__ = ["PackedLinear", "pack", "unpack"]

ROWS = 16  # of the batch that the layout is chosen for; it serves from 1 to hundreds


class PackedLinear(nn.Linear):
    """A linear layer with a second, packed copy of its weight, used where no gradient is wanted.

    A weight that has changed since, or moved, is noticed: the layer is then a plain one, and so is a copy of it.
    """

    packed: Tensor | None = None
    packed_from = (0, 0)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        stale = self.packed_from != _stamp(self.weight)
        if stale or torch.is_grad_enabled() or input.dtype != torch.float32 or not input.numel():
            return super().forward(input)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What `copy` and `pickle` take along: all but the packed weight, which cannot be copied."""
        return {name: value for name, value in vars(self).items() if name not in ("packed", "packed_from")}


def pack(model: Any) -> int:
    """Pack every linear layer of the model, in place, and say how many.

    None where it would not help or not fit: off the CPU, in other number formats, without oneDNN, or with less memory
    free than twice what the copies take.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and _suits(module)]
    needed = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    if not torch.backends.mkldnn.is_available() or _free_memory() < 2 * needed:
        return 0
    with torch.no_grad():
        for layer in layers:
            layer.__class__ = PackedLinear
            assert isinstance(layer, PackedLinear)
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
            layer.packed_from = _stamp(layer.weight)
    return len(layers)


def unpack(model: Any) -> None:
    """Make every packed layer a plain one again, and free the copies."""
    for module in model.modules():
        if isinstance(module, PackedLinear):
            for name in ("packed", "packed_from"):
                vars(module).pop(name, None)
            module.__class__ = nn.Linear  # type: ignore[assignment]


def _suits(layer: nn.Linear) -> bool:
    weight = layer.weight
    plain = weight.dtype == torch.float32 and not is_quantised(weight)
    return weight.device.type == "cpu" and plain and not hasattr(layer, "_hf_hook")


def _stamp(weight: Tensor) -> tuple[int, int]:
    """Where the weight lies and how often it has been written."""
    return weight.data_ptr(), weight._version


def _free_memory() -> int:
    """Bytes, as Linux says; 0 elsewhere."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
