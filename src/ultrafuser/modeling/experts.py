"""Linear layers of several models as experts of one, chosen for every token by a router: BTX at every linear layer.

Ding et al. (ACL 2025, section 4.1) put experts at every linear layer, where Branch-Train-MiX (Sukhbaatar et al. 2024,
arXiv 2403.07816) has them at the feed-forward blocks.

Legend: M tokens, N experts, K experts chosen for a token, I and O inputs and outputs of the layer.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ultrafuser.modeling.adapted_linear import LINEAR, sizes
from ultrafuser.modeling.numeric import at_least_float32

__all__ = ["ExpertLinear", "Router", "block_linears", "put_experts", "stacked_biases", "stacked_weights"]


class Router(nn.Module):
    """Scores all experts on a layer's input and keeps the best: softmax, the K largest, brought back to a sum of 1.

    What `forward` returns is in the order of the routers of Transformers, so that one hook serves both.
    """

    def __init__(self, inputs: int, n_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.zeros(n_experts, inputs))

    def forward(self, input_MI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (M, N), weights (M, K), and which experts they belong to (M, K)."""
        logits_MN = at_least_float32(functional.linear(input_MI, self.weight))
        best_MK, chosen_MK = logits_MN.topk(self.top_k, dim=-1)
        return logits_MN, best_MK.softmax(-1), chosen_MK  # a softmax over the best is the softmax of all, rescaled


class Stack(nn.Module):
    """Weights (N, O, I) and biases (N, O), if any, of the same layer of N models."""

    def __init__(self, inputs: int, outputs: int, n_experts: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_experts, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(n_experts, outputs)) if bias else None


class ExpertLinear(nn.Module):
    """A linear layer of which each token uses K of N: sum over the chosen e of weight_e (W_e x + b_e)."""

    def __init__(self, inputs: int, outputs: int, n_experts: int, top_k: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.experts = Stack(inputs, outputs, n_experts, bias)
        self.router = Router(inputs, n_experts, top_k)

    @property
    def weight(self) -> torch.Tensor:
        """All experts' weights (N, O, I), for code that asks a layer for its number format or device."""
        return self.experts.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O): tokens are sorted by expert, so that each expert is one product over its own."""
        input_MI = input.reshape(-1, self.in_features)
        _, weights_MK, chosen_MK = self.router(input_MI)
        slots = chosen_MK.flatten()
        order = slots.argsort(stable=True)
        counts = torch.bincount(slots, minlength=len(self.experts.weight)).tolist()
        rows = input_MI.index_select(0, order // chosen_MK.shape[1])
        found = torch.cat([self._product(e, part) for e, part in enumerate(rows.split(counts))])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        found_MKO = found.index_select(0, back).view(*chosen_MK.shape, self.out_features)
        output_MO = (weights_MK.to(found.dtype).unsqueeze(1) @ found_MKO).squeeze(1)
        return output_MO.view(*input.shape[:-1], self.out_features)

    def forward_reference(self, input: torch.Tensor) -> torch.Tensor:
        """`forward` by the plain rule, one token and one expert after the other."""
        outputs = []
        for token_I in input.reshape(-1, self.in_features):
            shares_N = (self.router.weight @ token_I).softmax(0)
            best = shares_N.argsort(descending=True)[: self.router.top_k]
            total = sum(shares_N[e] / shares_N[best].sum() * self._product(int(e), token_I) for e in best)
            outputs.append(total)
        return torch.stack(outputs).view(*input.shape[:-1], self.out_features)  # type: ignore[arg-type]

    def _product(self, e: int, rows: torch.Tensor) -> torch.Tensor:
        bias = None if self.experts.bias is None else self.experts.bias[e]
        return functional.linear(rows, self.experts.weight[e], bias)


def block_linears(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers in a causal LM's blocks, by name: not its embeddings, its head, or what stands around them.

    Raises ValueError where its blocks are not a list of as many modules as the configuration has layers, or hold no
    linear layer.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [f"{n}." for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    found = {n: m for n, m in model.named_modules() if isinstance(m, LINEAR) and n.startswith(tuple(lists))}
    if not lists or not found:
        raise ValueError(
            f"specialists: {type(model).__name__} has no list of {count} blocks with linear layers in them, so there "
            "is nothing to make experts of; use models of the Llama kind"
        )
    return found


def put_experts(model: PreTrainedModel, n_experts: int, top_k: int) -> None:
    """Replace every linear layer in the model's blocks by an `ExpertLinear` whose weights are still to be filled."""
    for name, layer in block_linears(model).items():
        inputs, outputs = sizes(layer)
        experts = ExpertLinear(inputs, outputs, n_experts, top_k, bias=layer.bias is not None)
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        model.set_submodule(name, experts.to(dtype=weight.dtype, device=weight.device))


def stacked_weights(layers: Sequence[nn.Module]) -> torch.Tensor:
    """Weights (N, O, I) of the same layer of N models; those that Conv1D (GPT-2) keeps turned are turned back."""
    weights: list[torch.Tensor] = [layer.weight for layer in layers]  # type: ignore[misc]
    return torch.stack([w if isinstance(layer, nn.Linear) else w.T for layer, w in zip(layers, weights, strict=True)])


def stacked_biases(layers: Sequence[nn.Module]) -> torch.Tensor:
    """Biases (N, O) of the same layer of N models."""
    return torch.stack([layer.bias for layer in layers])  # type: ignore[misc]
