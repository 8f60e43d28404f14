"""What each specialist reads: column bookkeeping for prompts of unequal length, and padding helpers.

Legend: B batch, T visible columns, P prompt columns, N specialists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Columns:
    """One specialist's view of the current columns: ids (B, Q), mask (B, L+Q) or None, positions (B, Q) or None."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None


def own_columns(
    input_ids_BQ: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prompt_ids_BP: torch.Tensor,
    prompt_mask_BP: torch.Tensor,
    past: int,
) -> Columns:
    """Columns [past, past + Q) as one specialist sees them: its own prompt in the first P columns, then the shared ones.

    The mask is derived from the prompt mask and the total length each time, so nothing has to grow along with it.
    """
    P, total = prompt_ids_BP.shape[-1], past + input_ids_BQ.shape[-1]
    own = prompt_ids_BP[:, past : min(P, total)]
    shared = input_ids_BQ[:, max(P - past, 0) :]
    mask = prompt_mask_BP[:, : min(P, total)].long()
    if total > P:
        after = mask.new_ones(mask.shape[0], total - P) if attention_mask is None else attention_mask[:, P:total].long()
        mask = torch.cat([mask, after], dim=-1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, past:]
    return Columns(torch.cat([own, shared], dim=-1), mask, positions)


def pad_prompts(examples: Sequence[Sequence[Sequence[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Left-pad prompts given as [example][specialist][ids] to the longest of all.

    Returns input_ids (B, P) and attention_mask (B, P): the first specialist's prompt, the visible one; prompt_ids and
    prompt_mask (B, N, P). Raises ValueError on an empty prompt or on examples with different numbers of specialists.
    """
    if not examples:
        raise ValueError("prompts: no example given; pass at least one")
    n = len(examples[0])
    for i, example in enumerate(examples):
        if len(example) != n:
            raise ValueError(
                f"prompts[{i}]: {len(example)} prompts, but example 0 has {n}; give one for each specialist"
            )
        for j, ids in enumerate(example):
            if not len(ids):
                raise ValueError(
                    f"prompts[{i}][{j}]: an empty prompt; a specialist needs at least one token to start from"
                )
    longest = max(len(ids) for example in examples for ids in example)
    ids = torch.full((len(examples), n, longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        for j, prompt in enumerate(example):
            ids[i, j, longest - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            mask[i, j, longest - len(prompt) :] = 1
    return {
        "input_ids": ids[:, 0].clone(),
        "attention_mask": mask[:, 0].clone(),
        "prompt_ids": ids,
        "prompt_mask": mask,
    }
