"""Cross entropy of the fused distribution at response positions, lean in memory and time.

Legend: M response positions of a batch laid end to end, N specialists, D hidden, V vocabulary.

Three ways, chosen by what needs gradients; a test holds each against `response_loss_reference`:
- logit mixture, something in the specialists learns: one (M, V) tensor, in chunks that are made again in the backward
  pass once it would be large;
- logit mixture, specialists frozen (stage 1): the loss is a function of the N weights alone, and its derivative
  d loss / d w_j = sum_v p_v o_jv - o_jy is known as soon as the logits are, so nothing is kept and nothing made twice;
- probability mixture: only each specialist's log-probability of the label is needed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ultrafuser.modeling.fusion import FUSION_RULES, mix_logits, mix_probabilities
from ultrafuser.modeling.head import Head, fused_logits, fused_logits_reference, shared_logits, shared_slopes, sharing

CHUNK_BYTES = 256 * 2**20
"""Logits of one chunk, in bytes of float32; below this nothing is cut up."""


def response_loss_reference(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    rule: str,
    labels_M: torch.Tensor,
) -> torch.Tensor:
    """Cross entropy of each position, (M,) nats, by the plain rule with all M x N x V logits in memory."""
    logits = fused_logits_reference(gate_weights_MN, hidden_MD, heads, rule)
    return functional.cross_entropy(logits, labels_M.to(logits.device), reduction="none")


def response_loss(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    rule: str,
    labels_M: torch.Tensor,
    chunk_bytes: int = CHUNK_BYTES,
) -> torch.Tensor:
    """Cross entropy of each position, (M,) nats: `response_loss_reference`'s values and gradients in less memory."""
    function = FUSION_RULES[rule]
    row_bytes = 4 * heads[0].vocab_size
    if function is mix_probabilities:
        return _probability_loss(gate_weights_MN, hidden_MD, heads, labels_M, chunk_bytes // row_bytes)
    if function is not mix_logits:
        return response_loss_reference(gate_weights_MN, hidden_MD, heads, rule, labels_M)
    if gate_weights_MN.requires_grad and torch.is_grad_enabled() and _all_frozen(hidden_MD, heads):
        rows = max(1, chunk_bytes // (row_bytes * len(heads)))
        return _FrozenLoss.apply(gate_weights_MN, tuple(hidden_MD), heads, labels_M, rows)
    return by_chunks(_logit_rows, chunk_bytes // row_bytes, labels_M, gate_weights_MN, hidden_MD, heads, rule)


def _all_frozen(hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head]) -> bool:
    learning = any(hidden.requires_grad for hidden in hidden_MD)
    return not learning and not any(p.requires_grad for head in heads for p in head.module.parameters())


def by_chunks(function: Any, rows: int, labels_M: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """`function` on pieces of `rows` positions, each made again in the backward pass; only tensors are cut."""
    rows = max(1, rows)
    if labels_M.shape[0] <= rows:
        return function(labels_M, *arguments)
    parts = []
    for start in range(0, labels_M.shape[0], rows):
        piece = slice(start, start + rows)
        cut = [_cut(argument, piece) for argument in (labels_M, *arguments)]
        parts.append(checkpoint(function, *cut, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts)


def _cut(argument: Any, piece: slice) -> Any:
    if isinstance(argument, torch.Tensor):
        return argument[piece]
    if isinstance(argument, list | tuple) and argument and isinstance(argument[0], torch.Tensor):
        return tuple(tensor[piece] for tensor in argument)
    return argument


def _logit_rows(
    labels_M: torch.Tensor,
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    rule: str,
) -> torch.Tensor:
    logits = fused_logits(gate_weights_MN, hidden_MD, heads, rule)
    return functional.cross_entropy(logits, labels_M.to(logits.device), reduction="none")


def _probability_loss(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    labels_M: torch.Tensor,
    rows: int,
) -> torch.Tensor:
    """-log sum_j w_j p_j(label): N columns of log-probabilities, one specialist's logits at a time."""
    return mixed_label_loss(gate_weights_MN, -own_losses(hidden_MD, heads, labels_M, rows).to(gate_weights_MN.device))


def own_losses(
    hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head], labels_M: torch.Tensor, rows: int
) -> torch.Tensor:
    """Each specialist's own cross entropy of the labels, (M, N) nats, over `rows` positions at a time."""
    device = hidden_MD[0].device
    own = [by_chunks(_own_rows, rows, labels_M, h, head).to(device) for h, head in zip(hidden_MD, heads, strict=True)]
    return torch.stack(own, dim=-1)


def mixed_label_loss(gate_weights_MN: torch.Tensor, own_MN: torch.Tensor) -> torch.Tensor:
    """-log sum_j w_j p_j(label), (M,) nats, from each specialist's log probability of the label (M, N)."""
    # The rule itself, on a vocabulary of one: log_softmax is already done.
    log_weights_MN = gate_weights_MN.clamp_min(torch.finfo(gate_weights_MN.dtype).tiny).log()
    return -torch.logsumexp(log_weights_MN + own_MN, dim=-1)


def _own_rows(labels_M: torch.Tensor, hidden_MD: torch.Tensor, head: Head) -> torch.Tensor:
    logits = head.logits(hidden_MD)
    return functional.cross_entropy(logits, labels_M.to(logits.device), reduction="none")


class _FrozenLoss(Function):
    """Loss of the logit mixture as a function of the gate weights, hidden states and heads being constants."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        gate_weights_MN: torch.Tensor,
        hidden_MD: tuple[torch.Tensor, ...],
        heads: Sequence[Head],
        labels_M: torch.Tensor,
        rows: int,
    ) -> torch.Tensor:
        """(M,) nats; keeps d loss / d w, (M, N), and nothing else."""
        losses, slopes = [], []
        for start in range(0, labels_M.shape[0], rows):
            piece = slice(start, start + rows)
            hidden_piece = [hidden[piece] for hidden in hidden_MD]
            loss, slope = _loss_and_slope(gate_weights_MN[piece], hidden_piece, heads, labels_M[piece])
            losses.append(loss)
            slopes.append(slope)
        ctx.save_for_backward(torch.cat(slopes) if slopes else torch.zeros_like(gate_weights_MN))
        return torch.cat(losses) if losses else gate_weights_MN.new_zeros(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """Gradient for the gate weights only."""
        (slope_MN,) = ctx.saved_tensors
        return gradient_M.unsqueeze(-1) * slope_MN, None, None, None, None


def _loss_and_slope(
    gate_weights_MN: torch.Tensor, hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head], labels_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (M,) and its derivative by each gate weight (M, N): sum_v p_v o_jv - o_jy.

    Where specialists share a head W, that is (W^T p - W_y) h_j, and their logits are not made one by one.
    """
    device, groups = gate_weights_MN.device, sharing(heads)
    label_M1 = labels_M.to(device).unsqueeze(-1)
    own: dict[int, torch.Tensor] = {}
    total_MV: torch.Tensor | None = None
    for members in groups:
        j, head = members[0], heads[members[0]]
        if len(members) > 1:
            part_MV = shared_logits(gate_weights_MN, hidden_MD, members, head).to(device)
            total_MV = part_MV if total_MV is None else total_MV.add_(part_MV)
            continue
        own[j], weight_M1 = head.logits(hidden_MD[j]).to(device), gate_weights_MN[:, j : j + 1]
        total_MV = own[j] * weight_M1 if total_MV is None else total_MV.addcmul_(own[j], weight_M1)
    assert total_MV is not None
    log_normaliser_M1 = total_MV.logsumexp(dim=-1, keepdim=True)
    loss_M = (log_normaliser_M1 - total_MV.gather(-1, label_M1)).squeeze(-1)
    pull_MV = total_MV.sub_(log_normaliser_M1).exp_()  # probabilities
    slopes = {j: torch.linalg.vecdot(pull_MV, o) - o.gather(-1, label_M1).squeeze(-1) for j, o in own.items()}
    if len(own) < len(groups):
        pull_MV.scatter_add_(-1, label_M1, -torch.ones_like(loss_M).unsqueeze(-1))
    for members in groups:
        if len(members) > 1:
            slopes |= shared_slopes(pull_MV, hidden_MD, members, heads[members[0]])
    return loss_M, torch.stack([slopes[j].to(device) for j in range(len(heads))], dim=-1).to(gate_weights_MN.dtype)
