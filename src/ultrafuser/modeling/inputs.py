"""What each specialist reads: column bookkeeping for prompts of unequal length, response positions, forced weights.

Legend: B batch, T columns of a sequence, P prompt columns, Q columns of this call, R response positions, K positions
kept, M response positions of a batch laid end to end, N specialists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import slice_logits_to_keep

IGNORED = -100


@dataclass(frozen=True)
class Columns:
    """One specialist's view of the columns: ids (B, Q), mask (B, past + Q) or None, positions (B, Q) or None."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Columns":
        """The same on another device; as they are where that is "meta": weights that Accelerate fetches at each use."""
        if device.type == "meta" or device == self.input_ids.device:
            return self
        mask, positions = self.attention_mask, self.position_ids
        return Columns(
            self.input_ids.to(device),
            None if mask is None else mask.to(device),
            None if positions is None else positions.to(device),
        )


def own_columns(
    input_ids_BQ: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prompt_ids_BNP: torch.Tensor,
    prompt_mask_BNP: torch.Tensor,
    past: int,
) -> list[Columns]:
    """Columns [past, past + Q) as each specialist sees them: its own prompt in the first P, the shared ones after.

    The masks are derived from the prompt masks and the total length each time, so nothing has to grow along with them.
    """
    P, total = prompt_ids_BNP.shape[-1], past + input_ids_BQ.shape[-1]
    shared = input_ids_BQ[:, max(P - past, 0) :]
    after = None if attention_mask is None or total <= P else attention_mask[:, P:total].long()
    after_is_full = after is None or bool(after.all())
    unpadded = prompt_mask_BNP.bool().all(dim=-1).all(dim=0).tolist()
    views = []
    for j, whole in enumerate(unpadded):
        ids = torch.cat([prompt_ids_BNP[:, j, past : min(P, total)], shared], dim=-1)
        if whole and after_is_full:
            # Not all architectures count on from their cache by themselves (Bamba does not).
            views.append(
                Columns(ids, None, torch.arange(past, total, device=ids.device).expand_as(ids) if past else None)
            )
            continue
        mask = prompt_mask_BNP[:, j, : min(P, total)].long()
        if total > P:
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], total - P) if after is None else after], dim=-1)
        views.append(Columns(ids, mask, (mask.cumsum(-1) - 1).clamp_min(0)[:, past:]))
    return views


def check_prompts(
    input_ids: torch.Tensor, prompt_ids: torch.Tensor | None, prompt_mask: torch.Tensor | None, n: int
) -> None:
    """Raise ValueError unless both are (B, N, P) with the batch of `input_ids`, or both None."""
    if prompt_ids is None and prompt_mask is None:
        return
    if prompt_ids is None or prompt_mask is None:
        raise ValueError("prompt_ids and prompt_mask go together; model.prepare_prompts makes both")
    expected = (input_ids.shape[0], n)
    if prompt_ids.ndim != 3 or prompt_ids.shape[:2] != expected or prompt_mask.shape != prompt_ids.shape:
        raise ValueError(
            f"prompt_ids {tuple(prompt_ids.shape)} and prompt_mask {tuple(prompt_mask.shape)}: both must be (batch, "
            f"specialists, columns), here ({expected[0]}, {expected[1]}, ...)"
        )


def pad_prompts(examples: Sequence[Sequence[Sequence[int]]], n: int, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Left-pad prompts given as [example][specialist][ids] to the longest of all, P.

    Returns input_ids and attention_mask (B, P), the first specialist's prompt, which is the visible one; prompt_ids and
    prompt_mask (B, N, P). Raises ValueError on no example, an empty prompt, or a wrong number of specialists.
    """
    if not examples:
        raise ValueError("prompts: no example given; pass at least one")
    for i, example in enumerate(examples):
        if len(example) != n:
            raise ValueError(f"prompts[{i}]: {len(example)} prompts for {n} specialists; give one for each")
        for j, prompt in enumerate(example):
            if not len(prompt):
                raise ValueError(f"prompts[{i}][{j}]: empty; a specialist needs at least one token to start from")
    longest = max(len(prompt) for example in examples for prompt in example)
    ids = torch.full((len(examples), n, longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        for j, prompt in enumerate(example):
            ids[i, j, longest - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            mask[i, j, longest - len(prompt) :] = 1
    visible = {"input_ids": ids[:, 0].clone(), "attention_mask": mask[:, 0].clone()}
    return visible | {"prompt_ids": ids, "prompt_mask": mask}


@dataclass(frozen=True)
class Responses:
    """The training form, checked. Fields: ids (B, N, T); columns each specialist needs; kept (B, R) response positions;
    their batch rows (M,); their place in each specialist's sequence (M, N), -1 where it takes no part."""

    sequence_ids: torch.Tensor
    lengths: list[int]
    keep: torch.Tensor
    rows: torch.Tensor
    index: torch.Tensor

    def columns(self, j: int) -> Columns:
        """Specialist j's sequences without columns that are padding in every row.

        No mask: padding stands on the right, where a causal model never looks back at it.
        """
        return Columns(self.sequence_ids[:, j, : self.lengths[j]])

    @property
    def available(self) -> torch.Tensor:
        """(M, N) bool: which specialists take part at the kept positions."""
        return self.index >= 0

    @property
    def answers(self) -> torch.Tensor:
        """Which answer each kept position belongs to, (M,), counted from 0: a new one begins where a row does, or where
        the first specialist reads more between two positions than the token that the first of them predicts."""
        begins_M = torch.ones_like(self.rows, dtype=torch.bool)
        begins_M[1:] = (self.rows.diff() != 0) | (self.index[:, 0].diff() != 1)
        return begins_M.cumsum(0) - 1

    def gather(self, states_BTD: torch.Tensor, j: int) -> torch.Tensor:
        """Specialist j's hidden states at the kept positions, (M, D); zero where it takes no part."""
        rows, index = self.rows.to(states_BTD.device), self.index[:, j].to(states_BTD.device)
        if bool((index >= 0).all()):
            return states_BTD[rows, index]
        return states_BTD[rows, index.clamp_min(0)] * (index >= 0).unsqueeze(-1)

    def spread(self, values_M: torch.Tensor) -> torch.Tensor:
        """Values of the kept positions (M, ...) put back in place, (B, R, ...), zero elsewhere."""
        return spread(values_M, self.keep)


def spread(values_M: torch.Tensor, keep_BR: torch.Tensor) -> torch.Tensor:
    """(M, ...) to (B, R, ...) where `keep_BR` is True, zero elsewhere."""
    result = values_M.new_zeros(*keep_BR.shape, *values_M.shape[1:])
    result[keep_BR.to(values_M.device)] = values_M
    return result


def check_responses(
    sequence_ids: torch.Tensor,
    sequence_mask: torch.Tensor | None,
    response_index: torch.Tensor | None,
    labels: torch.Tensor | None,
    n: int,
    *,
    shared: bool = True,
) -> Responses:
    """Check the training form. Raises ValueError naming the tensor, its shape and what it should be.

    Unless the tokenizer is `shared`, -1 in `response_index` says that a specialist takes no part in a position.
    """
    if sequence_ids.ndim != 3 or sequence_ids.shape[1] != n:
        raise ValueError(f"sequence_ids: shape {tuple(sequence_ids.shape)}, expected (batch, {n} specialists, columns)")
    if response_index is None:
        raise ValueError(
            "response_index: missing; the training form needs the position that predicts each response token"
        )
    B, _, T = sequence_ids.shape
    if response_index.ndim != 3 or response_index.shape[:2] != (B, n):
        raise ValueError(f"response_index: shape {tuple(response_index.shape)}, expected ({B}, {n}, responses)")
    R = response_index.shape[-1]
    if labels is not None and labels.shape != (B, R):
        raise ValueError(f"labels: shape {tuple(labels.shape)}, expected ({B}, {R}), aligned with response_index")
    lengths = [T] * n
    if sequence_mask is not None:
        if sequence_mask.shape != sequence_ids.shape:
            raise ValueError(f"sequence_mask: shape {tuple(sequence_mask.shape)}, expected {tuple(sequence_ids.shape)}")
        counts_BN = sequence_mask.sum(dim=-1)
        on_the_right = torch.arange(T, device=counts_BN.device) < counts_BN.unsqueeze(-1)
        if not torch.equal(on_the_right, sequence_mask.bool()):
            raise ValueError("sequence_mask: padding must stand on the right of each sequence only")
        lengths = counts_BN.amax(dim=0).clamp_min(1).tolist()
    keep_BR = (
        labels != IGNORED if labels is not None else torch.ones(B, R, dtype=torch.bool, device=sequence_ids.device)
    )
    rows_M = keep_BR.nonzero()[:, 0]
    index_MN = response_index.transpose(1, 2)[keep_BR]
    ends_MN = T if sequence_mask is None else sequence_mask.sum(dim=-1)[rows_M]
    if bool(((index_MN < (0 if shared else -1)) | (index_MN >= ends_MN)).any()):
        raise ValueError("response_index: points outside a specialist's own sequence (padding not counted)")
    if not shared and not bool((index_MN >= 0).any(-1).all()):
        raise ValueError("response_index: -1 for every specialist at a position; the canonical one has them all")
    return Responses(sequence_ids, lengths, keep_BR, rows_M, index_MN)


def check_labels(labels_M: torch.Tensor, vocab_size: int) -> None:
    """Raise ValueError where a label is no token of the fused vocabulary (on a GPU it would end the process)."""
    if labels_M.numel() and not 0 <= int(labels_M.min()) <= int(labels_M.max()) < vocab_size:
        raise ValueError(
            f"labels: token ids {int(labels_M.min())} to {int(labels_M.max())}, but the fused vocabulary has "
            f"{vocab_size} tokens; encode with the specialists' shared tokenizer, and mark padding with -100"
        )


def forced_weights(given: Any, shape: torch.Size, n: int, device: torch.device) -> torch.Tensor:
    """Weights (N,), (B, N) or (B, K, N) as (B, K, N) float32 for `shape` = (B, K). Raises ValueError on other shapes,
    negative or infinite entries, and weights that do not sum to one."""
    weights = torch.as_tensor(given, dtype=torch.float32, device=device)
    fits = weights.shape[-1:] == (n,) and (
        weights.ndim == 1
        or (weights.ndim == 2 and weights.shape[0] in (1, shape[0]))
        or (weights.ndim == 3 and weights.shape[0] in (1, shape[0]) and weights.shape[1] in (1, shape[1]))
    )
    if not fits:
        raise ValueError(
            f"gate_weights: shape {tuple(weights.shape)}, expected ({n},), ({shape[0]}, {n}) or "
            f"({shape[0]}, {shape[1]}, {n})"
        )
    sums = weights.sum(dim=-1)
    if not bool((weights >= 0).all()) or not bool(((sums - 1).abs() < 1e-3).all()):
        raise ValueError("gate_weights: weights must be at least 0 and sum to 1 over the specialists")
    weights = weights[:, None] if weights.ndim == 2 else weights
    return weights.expand(*shape, n)


def keep_available(weights_MN: torch.Tensor, available_MN: torch.Tensor) -> torch.Tensor:
    """Weights without those of specialists that take no part, scaled to sum to one again; all 0 where none is left."""
    kept_MN = weights_MN * available_MN.to(weights_MN.device)
    return kept_MN / kept_MN.sum(-1, keepdim=True).clamp_min(torch.finfo(kept_MN.dtype).tiny)


def mean_loss(loss_M: torch.Tensor, items: torch.Tensor | int | None) -> torch.Tensor:
    """Mean over the positions, or their sum over `items`; zero where there are no positions."""
    if items is None:
        return loss_M.sum() / max(loss_M.shape[0], 1)
    return loss_M.sum() / (items.to(loss_M.device) if isinstance(items, torch.Tensor) else items)


def keep_columns(given: Any, logits_to_keep: int | torch.Tensor, columns: int) -> Any:
    """Forced weights for every column, cut to the columns kept."""
    if isinstance(given, torch.Tensor) and given.ndim == 3 and given.shape[1] == columns:
        return slice_logits_to_keep(given, logits_to_keep)
    return given
