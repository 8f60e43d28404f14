"""Larger models from a smaller one: deeper with the same function, or wider with random weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from ultrafuser.baselines.counting import parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["deepen", "layers_to_add", "widened_config"]

WRITERS = ("self_attn.o_proj", "mlp.down_proj")  # what a layer adds to the residual stream goes through these two


def layers_to_add(model: PreTrainedModel, size: int) -> int:
    """How many more layers bring the model nearest to `size` parameters. Raises ValueError where it has as many."""
    each = parameters(_layers(model)[0])
    missing = round((size - parameters(model)) / each)
    if missing < 1:
        raise ValueError(
            f"size: {size:,} parameters wanted, and the model has {parameters(model):,} already; nothing to grow"
        )
    return missing


def deepen(model: PreTrainedModel, added: int) -> PreTrainedModel:
    """A model with `added` layers more that computes exactly the same until it is trained.

    After every layer come copies of it, as evenly spread as can be, whose two output projections are zero: what they
    add to the residual stream is nothing, yet their gradients are not. This is the block expansion of LLaMA Pro
    (Wu et al. 2024, arXiv 2401.02415). Works for pre-norm decoders whose layers write through `self_attn.o_proj` and
    `mlp.down_proj` (Llama, Mistral, Qwen2, Gemma and kin). Raises ValueError for others.
    """
    old, count = _layers(model), len(_layers(model))
    for layer in old:
        for name in WRITERS:
            if not _has(layer, name):
                raise ValueError(
                    f"base: {type(model).__name__} has no {name} in its layers, so layers that change nothing cannot "
                    "be added; use a base of the Llama kind"
                )
    order = [i for i in range(count) for _ in range(1 + added // count + (i >= count - added % count))]
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(order)
    for field in ("layer_types", "mlp_layer_types"):
        if getattr(config, field, None):
            setattr(config, field, [getattr(config, field)[i] for i in order])
    grown = type(model)(config).to(dtype=model.dtype, device=model.device).eval()
    grown.generation_config = copy.deepcopy(model.generation_config)
    rest = {name: tensor for name, tensor in model.state_dict().items() if ".layers." not in name}
    grown.load_state_dict(rest, strict=False)
    for place, (layer, source) in enumerate(zip(_layers(grown), order, strict=True)):
        layer.load_state_dict(old[source].state_dict())
        if place and order[place - 1] == source:
            silence(layer)
    _check_same(model, grown)
    return grown


def silence(layer: torch.nn.Module) -> None:
    """Set what the layer adds to the residual stream to zero."""
    with torch.no_grad():
        for name in WRITERS:
            for parameter in layer.get_submodule(name).parameters():
                parameter.zero_()


def widened_config(config: Any, size: int, model_class: Any) -> Any:
    """The configuration of as many layers whose width brings a model nearest to `size` parameters.

    Heads keep their size, and key/value heads and the inner layer their proportions. Raises ValueError for
    configurations without these fields.
    """
    for field in ("hidden_size", "num_attention_heads", "intermediate_size"):
        if not isinstance(getattr(config, field, None), int):
            raise ValueError(f"base: its configuration has no {field}, so a wider one cannot be made; use a Llama")
    group = config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    best: tuple[int, Any] | None = None
    for units in range(1, 10_000):
        candidate = copy.deepcopy(config)
        candidate.num_attention_heads, candidate.num_key_value_heads = units * group, units
        candidate.hidden_size = candidate.num_attention_heads * head
        candidate.intermediate_size = round(config.intermediate_size * candidate.hidden_size / config.hidden_size)
        with torch.device("meta"):
            distance = parameters(model_class(candidate)) - size
        if best is None or abs(distance) < best[0]:
            best = (abs(distance), candidate)
        if distance >= 0:
            break
    assert best is not None
    return best[1]


def _layers(model: PreTrainedModel) -> Any:
    found = getattr(model.base_model, "layers", None)
    if not isinstance(found, torch.nn.ModuleList) or not len(found):
        raise ValueError(f"base: {type(model).__name__} keeps its layers elsewhere than in `layers`; use a Llama")
    return found


def _has(layer: torch.nn.Module, name: str) -> bool:
    try:
        layer.get_submodule(name)
    except AttributeError:
        return False
    return True


@torch.no_grad()
def _check_same(model: PreTrainedModel, grown: PreTrainedModel) -> None:
    """Raise ValueError where the two give different logits: the architecture has another way to the residual stream."""
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(16, device=model.device)[None] * 7 % rows
    before, after = (one.eval()(input_ids=ids).logits.float() for one in (model, grown))
    if (before - after).abs().max() > 1e-2 * before.abs().max():
        raise ValueError(f"base: {type(model).__name__} does not stay the same when layers are added; use a Llama")
