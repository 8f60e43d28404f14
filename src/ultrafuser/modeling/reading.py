"""The specialists' last hidden states: each group of them in one pass through its module.

Legend: B batch, Q columns of this call, N specialists of a group, D hidden.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from ultrafuser.modeling.cache import SpecialistCache
from ultrafuser.modeling.inputs import Columns


def read_all(model: Any, views: Sequence[Columns], cache: SpecialistCache | None = None) -> list[torch.Tensor]:
    """Every specialist's last hidden states (B, Q, D_j), where specialist j reads `views[j]`.

    Within a group Q is the widest of its views; narrower ones are padded on the right.
    """
    hidden: list[Any] = [None] * len(views)
    for g, group in enumerate(model.config.groups):
        columns = stack_columns([views[j] for j in group.members])
        states = read_module(getattr(model, group.name), columns, None if cache is None else cache.caches[g])
        for j, part in zip(group.members, states.chunk(len(group.members)), strict=True):
            hidden[j] = part
    return hidden


def read_one(model: Any, j: int, view: Columns) -> torch.Tensor:
    """Specialist j's last hidden states (B, Q, D_j), without a cache; its whole group reads the view."""
    group = next(group for group in model.config.groups if j in group.members)
    states = read_module(getattr(model, group.name), stack_columns([view] * len(group.members)), None)
    return states.chunk(len(group.members))[group.members.index(j)]


def read_module(module: Any, view: Columns, cache: Any) -> torch.Tensor:
    """Last hidden states of one pass, where the module lies; no graph is kept where nothing in it learns."""
    view = view.to(module.get_input_embeddings().weight.device)
    graph = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters())
    with torch.set_grad_enabled(graph):
        output = module.base_model(
            input_ids=view.input_ids,
            attention_mask=view.attention_mask,
            position_ids=view.position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return output.last_hidden_state


def stack_columns(views: Sequence[Columns]) -> Columns:
    """The views of a group as one batch of N x B rows, specialist-major. Masks are all or none; so are positions."""
    if len(views) == 1:
        return views[0]
    width = max(view.input_ids.shape[1] for view in views)
    ids = torch.cat([functional.pad(view.input_ids, (0, width - view.input_ids.shape[1])) for view in views])
    masks = [view.attention_mask for view in views]
    columns = next((mask.shape[1] for mask in masks if mask is not None), width)
    first = columns - width
    mask = _together(masks, lambda view: view.input_ids.new_ones(len(view.input_ids), columns), views)
    positions = _together(
        [view.position_ids for view in views],
        lambda view: torch.arange(first, columns, device=view.input_ids.device).expand(len(view.input_ids), -1),
        views,
    )
    return Columns(ids, mask, positions)


def _together(given: Sequence[torch.Tensor | None], default: Any, views: Sequence[Columns]) -> torch.Tensor | None:
    """The given tensors one below the other, `default(view)` where one is missing; None where all are."""
    if all(tensor is None for tensor in given):
        return None
    return torch.cat([default(v) if tensor is None else tensor for tensor, v in zip(given, views, strict=True)])
