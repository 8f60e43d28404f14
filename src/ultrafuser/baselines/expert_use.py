"""How much of each expert a sparse model uses in each domain, router by router: what its routers have learned.

Legend: T tokens of an example, N experts, K of them chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from ultrafuser.data import ResponseDataset

__all__ = ["ALL", "expert_use", "routers"]

ALL = "all"
EXAMPLES = 50  # of each domain


def routers(model: Any) -> dict[str, nn.Module]:
    """The model's routers by the layer or block they serve, as `layers.0.self_attn.q_proj` or `layers.0.mlp`."""
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    from ultrafuser.modeling.experts import Router

    kinds = (Router, MixtralTopKRouter)
    named = model.base_model.named_modules()
    return {name.rpartition(".")[0]: module for name, module in named if isinstance(module, kinds)}


@torch.no_grad()
def expert_use(model: Any, dataset: ResponseDataset, names: Sequence[str]) -> dict[str, Any]:
    """Mean weight of every expert over the response tokens: {router: {domain: {name: weight}}}, sums 1.

    The weight is what its output is multiplied with, 0 where it is not chosen. "all" is the mean over the routers.
    `dataset` is encoded for one model; its first EXAMPLES of each domain are read.
    """
    found = routers(model)
    sums = {(router, domain): torch.zeros(len(names)) for router in found for domain in dataset.categories}
    tokens = dict.fromkeys(dataset.categories, 0)
    seen = dict.fromkeys(dataset.categories, 0)
    now: dict[str, Any] = {}

    def add(router: str, module: nn.Module, inputs: Any, output: Any) -> None:
        weights_TK, chosen_TK = (tensor[now["positions"]] for tensor in output[1:])
        shares_TN = weights_TK.new_zeros(len(weights_TK), len(names)).scatter_add_(1, chosen_TK, weights_TK)
        sums[router, now["domain"]] += shares_TN.sum(0).float().cpu()

    hooks = [module.register_forward_hook(partial(add, router)) for router, module in found.items()]
    try:
        for example in dataset.examples:
            domain = dataset.categories[example.category]
            if seen[domain] == EXAMPLES:
                continue
            ids, positions = example.sequence(0)
            now |= {"domain": domain, "positions": torch.as_tensor(positions, device=model.device)}
            model.base_model(input_ids=torch.as_tensor(ids, device=model.device).long()[None], use_cache=False)
            seen[domain] += 1
            tokens[domain] += len(positions)
    finally:
        for hook in hooks:
            hook.remove()
    domains = [domain for domain, count in tokens.items() if count]
    mean = {(ALL, domain): torch.stack([sums[router, domain] for router in found]).mean(0) for domain in domains}
    return {
        router: {
            domain: dict(zip(names, ((sums | mean)[router, domain] / tokens[domain]).tolist(), strict=True))
            for domain in domains
        }
        for router in (ALL, *found)
    }
