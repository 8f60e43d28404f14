"""Mixing the probabilities of specialists whose tokenizers differ, over byte strings.

Legend: M positions laid end to end, N specialists, D hidden, V_j ids of specialist j, U entries of their union.

p_fused(string) = sum_j w_j p_j(string), where p_j is specialist j's own softmax, 0 for a string that is no token of its
own and for a specialist that is not available at a position; all of its end-of-sequence ids are one event. Special
tokens other than those are in nobody's distribution, and nothing is scaled up for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ultrafuser.modeling.head import Head
from ultrafuser.modeling.loss import by_chunks, mixed_label_loss
from ultrafuser.tokens import Alignment

__all__ = ["label_log_probabilities", "mixture_loss", "mixture_loss_reference", "own_log_probabilities", "union_logs"]


def mixture_loss_reference(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    labels_M: torch.Tensor,
    alignment: Alignment,
    available_MN: torch.Tensor,
) -> torch.Tensor:
    """-log p_fused of the string of each label, (M,) nats, by building the whole distribution over U in float64."""
    fused_MU = torch.zeros(len(labels_M), alignment.size, dtype=torch.float64)
    for j, (hidden, head) in enumerate(zip(hidden_MD, heads, strict=True)):
        own_MV = head.logits(hidden).double().softmax(-1).cpu()
        for i, entry in enumerate(alignment.to_union[j].tolist()):
            if entry >= 0:
                fused_MU[:, entry] += (gate_weights_MN[:, j].double() * available_MN[:, j]).cpu() * own_MV[:, i]
    return -fused_MU.gather(-1, labels_M.cpu().unsqueeze(-1)).squeeze(-1).log()


def mixture_loss(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    labels_M: torch.Tensor,
    alignment: Alignment,
    available_MN: torch.Tensor,
    chunk_bytes: int,
) -> torch.Tensor:
    """`mixture_loss_reference` in little memory: of each specialist only its log-probability of the label is made.

    Where the weights leave only specialists that do not have the label, the loss is large but finite: a weight counts
    for at least the smallest float, as in the probability mixture of one tokenizer.
    """
    own_MN = label_log_probabilities(hidden_MD, heads, labels_M, alignment, available_MN, chunk_bytes)
    return mixed_label_loss(gate_weights_MN, own_MN.to(gate_weights_MN.device))


def label_log_probabilities(
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    labels_M: torch.Tensor,
    alignment: Alignment,
    available_MN: torch.Tensor,
    chunk_bytes: int,
) -> torch.Tensor:
    """log p_j(string of the label), (M, N); -inf where j is not available or has no such token.

    A head runs only over the positions where it is asked, and over a chunk of them at a time.
    """
    device, columns = hidden_MD[0].device, []
    for j, (hidden, head) in enumerate(zip(hidden_MD, heads, strict=True)):
        ids_M = torch.as_tensor(alignment.from_union[j])[labels_M.cpu()]
        rows = ((ids_M >= 0) & available_MN[:, j].cpu()).nonzero()[:, 0]
        asked = rows.to(hidden.device)
        found = own_log_probabilities(hidden[asked], head, ids_M[rows].to(hidden.device), alignment.eos[j], chunk_bytes)
        column = torch.full((len(labels_M),), float("-inf"), dtype=found.dtype, device=device)
        columns.append(column.index_copy(0, rows.to(device), found.to(device)))
    return torch.stack(columns, dim=-1)


def own_log_probabilities(
    hidden_MD: torch.Tensor, head: Head, ids_M: torch.Tensor, eos: np.ndarray, chunk_bytes: int
) -> torch.Tensor:
    """A specialist's log-probability of its own tokens, (M,); its first `eos` id stands for all of them."""
    rows = chunk_bytes // (4 * head.vocab_size)
    return by_chunks(_own_rows, rows, ids_M, hidden_MD, head, eos.tolist())


def _own_rows(ids_M: torch.Tensor, hidden_MD: torch.Tensor, head: Head, eos: list[int]) -> torch.Tensor:
    logits = head.logits(hidden_MD)
    chosen_M = logits.gather(-1, ids_M.to(logits.device).unsqueeze(-1)).squeeze(-1)
    if len(eos) > 1:
        ends_M = logits[:, eos].logsumexp(-1)
        chosen_M = torch.where(ids_M.to(logits.device) == eos[0], ends_M, chosen_M)
    return chosen_M - logits.logsumexp(-1)


def union_logs(
    gate_weights_MN: torch.Tensor,
    logits_MV: Sequence[torch.Tensor],
    alignment: Alignment,
) -> torch.Tensor:
    """log p_fused over the union vocabulary, (M, U), from each specialist's own logits (M, V_j); -inf where nobody is.

    A specialist that is not available has weight 0.
    """
    fused_MU = gate_weights_MN.new_zeros(gate_weights_MN.shape[0], alignment.size)
    for j, logits in enumerate(logits_MV):
        entries = torch.as_tensor(alignment.to_union[j], device=fused_MU.device)
        known = entries >= 0
        own = logits.to(fused_MU).softmax(-1)[:, known] * gate_weights_MN[:, j : j + 1]
        fused_MU.index_add_(1, entries[known], own)
    return fused_MU.log()
