"""Makes one sparse model out of several of one shape: their linear layers or feed-forward blocks become experts.

What is not an expert's is the mean of the models'; routers are random and small. Knows models, nothing of data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["TOP_K", "at_every_linear_layer", "at_feed_forward_blocks", "differing_settings"]

TOP_K = 2
ROUTER_DEVIATION = 0.02  # of a router's random weights: what most models draw their layers from
TWINS = ("LlamaForCausalLM", "MistralForCausalLM")  # their block, with experts in its feed-forward part, is Mixtral's
COPIED = (  # settings that Mixtral shares with them
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings", "sliding_window", "attention_dropout",
    "rope_parameters",
)  # fmt: skip
BIASES = ("attention_bias", "mlp_bias")


def at_every_linear_layer(models: Mapping[str, PreTrainedModel], *, top_k: int = TOP_K, seed: int = 0) -> Any:
    """A `SparseForCausalLM`: every linear layer of the blocks has an expert from each model and a router of its own.

    This is BTX as Ding et al. (ACL 2025) have it. Any architecture of the Transformers library whose blocks hold linear
    layers. `seed` draws the routers. Raises ValueError naming model, tensor and fix where the models differ in class,
    in a tensor's name or in a shape, where there are fewer than two, or their blocks hold no linear layer.
    """
    from ultrafuser.modeling.experts import block_linears, stacked_biases, stacked_weights
    from ultrafuser.modeling.sparse import SparseForCausalLM
    from ultrafuser.modeling.sparse_configuration import SparseConfig

    check_models(models)
    first = next(iter(models.values()))
    layers = [block_linears(model) for model in models.values()]
    config = SparseConfig(
        text_config=copy.deepcopy(first.config), num_local_experts=len(models), num_experts_per_tok=top_k
    )
    mixed = SparseForCausalLM(config)
    experts: dict[str, Callable[[], torch.Tensor]] = {}
    for name in layers[0]:
        same = [found[name] for found in layers]
        experts[f"{name}.experts.weight"] = partial(stacked_weights, same)
        experts[f"{name}.experts.bias"] = partial(stacked_biases, same)
    return _filled(mixed, mixed.language_model, models, experts, seed)


def at_feed_forward_blocks(models: Mapping[str, PreTrainedModel], *, top_k: int = TOP_K, seed: int = 0) -> Any:
    """A `MixtralForCausalLM`: every feed-forward block has an expert from each model, under one router.

    This is BTX as Branch-Train-MiX has it (Sukhbaatar et al. 2024, arXiv 2403.07816). For Llama and Mistral without
    biases, whose block is Mixtral's. Raises ValueError as `at_every_linear_layer` does, and for other architectures.
    """
    from transformers import MixtralConfig, MixtralForCausalLM

    check_models(models)
    first = next(iter(models.values()))
    _check_twin(first)
    given = {name: value for name in COPIED if (value := getattr(first.config, name, None)) is not None}
    ends = {name: getattr(first.config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"num_local_experts": len(models), "num_experts_per_tok": top_k}
    mixed = MixtralForCausalLM(MixtralConfig(**copy.deepcopy(given | ends), **sizes))
    experts: dict[str, Callable[[], torch.Tensor]] = {}
    for i in range(first.config.num_hidden_layers):
        blocks = [model.model.layers[i].mlp for model in models.values()]
        experts[f"model.layers.{i}.mlp.experts.gate_up_proj"] = partial(_gates_and_ups, blocks)
        experts[f"model.layers.{i}.mlp.experts.down_proj"] = partial(_downs, blocks)
    return _filled(mixed, mixed, models, experts, seed)


def _gates_and_ups(blocks: Sequence[Any]) -> torch.Tensor:
    return torch.stack([torch.cat([block.gate_proj.weight, block.up_proj.weight]) for block in blocks])


def _downs(blocks: Sequence[Any]) -> torch.Tensor:
    return torch.stack([block.down_proj.weight for block in blocks])


def check_models(models: Mapping[str, PreTrainedModel]) -> None:
    """Raise ValueError naming model, tensor and fix where the models cannot be experts of one."""
    if len(models) < TOP_K:
        raise ValueError(f"specialists: {len(models)} given; a mixture of experts needs at least two")
    names = list(models)
    first = models[names[0]]
    shapes = {name: tuple(p.shape) for name, p in first.named_parameters()}
    for other in names[1:]:
        model = models[other]
        if type(model) is not type(first):
            raise ValueError(
                f"specialists.{other}: is a {type(model).__name__}, {names[0]} a {type(first).__name__}; only models "
                "of one architecture can be experts of one"
            )
        found = {name: tuple(p.shape) for name, p in model.named_parameters()}
        for here, there, one, two in ((shapes, found, names[0], other), (found, shapes, other, names[0])):
            lacking = sorted(set(here) - set(there))
            if lacking:
                raise ValueError(
                    f"specialists.{two}: has no tensor {lacking[0]}, which {one} has; only models with the same "
                    "tensors can be experts of one"
                )
        for name, shape in shapes.items():
            if found[name] != shape:
                raise ValueError(
                    f"specialists.{other}: {name} has the shape {found[name]}, in {names[0]} {shape}; only models of "
                    "the same sizes and vocabulary can be experts of one"
                )


def differing_settings(models: Mapping[str, PreTrainedModel]) -> list[str]:
    """Names of settings that decide what a model computes and are not the same in all: the first one's are taken."""
    idle = {"_name_or_path", "transformers_version", "architectures", "dtype", "bos_token_id", "eos_token_id"}
    idle |= {"pad_token_id", "use_cache", "torch_dtype", "max_position_embeddings", "initializer_range"}
    settings = [model.config.to_dict() for model in models.values()]
    names = sorted(set().union(*settings) - idle)
    return [name for name in names if any(s.get(name) != settings[0].get(name) for s in settings[1:])]


def _check_twin(model: PreTrainedModel) -> None:
    kind = type(model).__name__
    biases = [name for name in BIASES if getattr(model.config, name, False)]
    if kind not in TWINS or biases:
        what = f"has {biases[0]}, which Mixtral has not" if kind in TWINS else "is none whose block is Mixtral's"
        raise ValueError(
            f"specialists: {kind} {what}; experts at the feed-forward blocks are made of {' or '.join(TWINS)} without "
            "biases; take btx, which has them at every linear layer"
        )


@torch.no_grad()
def _filled(
    mixed: Any,
    inner: nn.Module,
    models: Mapping[str, PreTrainedModel],
    experts: Mapping[str, Callable[[], torch.Tensor]],
    seed: int,
) -> Any:
    """`mixed` with its `inner` parameters filled: experts as given, routers drawn, the rest the models' mean.

    One tensor after the other: beside the models and the mixture there is never more than one in memory.
    """
    first = next(iter(models.values()))
    states = [dict(model.named_parameters()) for model in models.values()]
    generator = torch.Generator().manual_seed(seed)
    mixed = mixed.to(dtype=first.dtype, device=first.device)
    for name, parameter in inner.named_parameters():
        if name in experts:
            value = experts[name]()
        elif name in states[0]:
            wide = torch.promote_types(parameter.dtype, torch.float32)
            value = torch.stack([state[name].to(wide) for state in states]).mean(0)
        else:
            value = ROUTER_DEVIATION * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(value)
    mixed.generation_config = copy.deepcopy(first.generation_config)
    return mixed.eval()
