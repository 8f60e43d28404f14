"""A linear layer that several specialists share, each with its own low-rank adapter (Hu et al. 2021, arXiv 2106.09685).

Legend: N specialists of a group, n of them with an adapter, M rows of each, I and O inputs and outputs of a layer,
r rank. The batch is specialist-major: those with an adapter first, then those that are the base alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

LINEAR = (nn.Linear, Conv1D)


class AdaptedLinear(nn.Module):
    """A linear layer of a shared base with the adapters of its specialists.

    `lora_A` (n, r, I) and `lora_B` (n, O, r) are padded with zeros to the largest rank and where a specialist has
    nothing here: zeros get no gradient from either side, so they stay.
    """

    def __init__(
        self, base: nn.Module, shapes: Sequence[tuple[int, float]], members: int, dtype: torch.dtype, device: Any
    ) -> None:
        """`shapes`: rank and scaling of each specialist with an adapter; `members`: specialists of the group."""
        super().__init__()
        self.base = base
        self.shapes = list(shapes)
        self.members = members
        inputs, outputs = sizes(base)
        n, r = len(self.shapes), max(rank for rank, _ in self.shapes)
        self.lora_A = nn.Parameter(torch.zeros(n, r, inputs, dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.zeros(n, outputs, r, dtype=dtype, device=device))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N * M, ..., I) to (N * M, ..., O): one product with the base, two small ones for all adapters."""
        output, n = self.base(input).contiguous(), len(self.shapes)
        rows_nMI = self._by_member(input)[:n].to(self.lora_A.dtype)
        inner_nMr = torch.bmm(rows_nMI, self.lora_A.transpose(1, 2)) * self._scaling(rows_nMI)
        self._by_member(output)[:n].add_(torch.bmm(inner_nMr, self.lora_B.transpose(1, 2)))
        return output

    def forward_reference(self, input: torch.Tensor) -> torch.Tensor:
        """`forward` by the plain rule, one specialist after the other."""
        parts = []
        for j, rows in enumerate(input.chunk(self.members)):
            part = self.base(rows)
            if j < len(self.shapes):
                part = part + self.shapes[j][1] * ((rows @ self.lora_A[j].T) @ self.lora_B[j].T)
            parts.append(part)
        return torch.cat(parts)

    def _scaling(self, like: torch.Tensor) -> Any:
        """One factor where all have the same, else (n, 1, 1)."""
        factors = [scaling for _, scaling in self.shapes]
        return factors[0] if len(set(factors)) == 1 else like.new_tensor(factors).view(-1, 1, 1)

    def _by_member(self, tensor: torch.Tensor) -> torch.Tensor:
        """(N * M, ..., F) as (N, M', F); a view where that is possible."""
        return tensor.reshape(self.members, -1, tensor.shape[-1])


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)  # type: ignore[return-value]


def linear_layers(module: PreTrainedModel) -> dict[str, nn.Module]:
    """The layers an adapter can sit on, by name: every linear layer but the head, which specialists share."""
    head = module.get_output_embeddings()
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, LINEAR) and layer is not head}
    return {name.removesuffix(".base"): layer for name, layer in found.items()}


def check_layers(wanted: Mapping[str, tuple[int, int]], base: PreTrainedModel, field: str) -> None:
    """Raise ValueError where a layer, given with its inputs and outputs, is not one of the base's linear layers."""
    known = linear_layers(base)
    for name, (inputs, outputs) in wanted.items():
        if name not in known:
            what = "is no linear layer below its head" if _has(base, name) else "does not exist"
            raise ValueError(
                f"{field}: the adapter changes {name!r}, which {what} in the base ({type(base).__name__}, "
                f"{len(known)} linear layers); name the base that the adapter was trained on"
            )
        if sizes(known[name]) != (inputs, outputs):
            here = "x".join(map(str, sizes(known[name])))
            raise ValueError(
                f"{field}: the adapter is made for {name!r} of {inputs}x{outputs}, in the base it is {here}; name the "
                "base that the adapter was trained on"
            )


def _has(module: nn.Module, name: str) -> bool:
    return any(name == known for known, _ in module.named_modules())
