"""The loss of a gate from what is stored of the specialists' predictions: exact or within a bound, and no head runs.

Legend: M response positions of a batch laid end to end, N specialists, V vocabulary, P points of all positions.

Every function reads log probabilities: x_j(v) = log p_j(v) at a position. Weights sum to one, so that of the logit
mixture (Ding et al., ACL 2025, section 3.1) only x_0 and the differences d_j = x_j - x_0 are needed:
loss = log sum_v exp(x_0(v) + sum_j w_j d_j(v)) - (x_0(y) + sum_j w_j d_j(y)), and by w_j its derivative is the mean of
d_j under the fused distribution less d_j(y), up to a constant over j that the softmax of the weights cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["Points", "dense_loss", "dense_rows", "parts", "points_loss"]

PIECE = 262_144  # logits held at once: they and their softmax then stay in a processor's cache
FEW_POINTS = 65_536  # points read at once
LEAST = 1e-30  # a probability below is taken from log_softmax: its own logarithm would be rough


class Points(NamedTuple):
    """The points of a batch: values, N tensors (P,), x_0 and d_1 .. d_(N-1) of each; counts (M,) of each position; own
    (M, N), x of the label; gaps (M, N), by specialist, how much more mass a position's points may have than its tokens.
    """

    values: Sequence[torch.Tensor]
    counts: torch.Tensor
    own: torch.Tensor
    gaps: torch.Tensor


def dense_loss(
    gate_weights_MN: torch.Tensor, pieces: Sequence[Sequence[torch.Tensor]], labels_M: torch.Tensor
) -> torch.Tensor:
    """Cross entropy (M,) in nats of the logit mixture; each piece holds N tensors (rows, V): x_0, d_1 .. d_(N-1)."""
    return _Known.apply(gate_weights_MN, *_dense(gate_weights_MN.detach(), pieces, labels_M))


def points_loss(gate_weights_MN: torch.Tensor, points: Points) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy (M,) in nats of the logit mixture over weighted points, and a bound (M,) on its error.

    A point stands for one token or, with the sums of their probabilities, for several; by Hoelder's inequality
    the fused mass is then never too small, and it exceeds the true one by at most sum_j w_j gaps_j.
    """
    loss_M, slope_MN, bound_M = _over_points(gate_weights_MN.detach(), points)
    return _Known.apply(gate_weights_MN, loss_M, slope_MN), bound_M


class _Known(Function):
    """A loss whose value and slope by the gate weights are known already."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, gate_weights_MN: torch.Tensor, loss_M: torch.Tensor, slope_MN: torch.Tensor
    ) -> torch.Tensor:
        """The loss (M,) as it was given."""
        ctx.save_for_backward(slope_MN)
        return loss_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """Gradient for the gate weights only."""
        (slope_MN,) = ctx.saved_tensors
        return gradient_M.unsqueeze(-1) * slope_MN, None, None


@torch.no_grad()
def _dense(
    weights_MN: torch.Tensor, pieces: Sequence[Sequence[torch.Tensor]], labels_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (M,) and slope (M, N), a few rows at a time."""
    loss_M, slope_MN, at = torch.empty_like(weights_MN[:, 0]), torch.zeros_like(weights_MN), 0
    for piece in pieces:
        for rows in parts(piece[0]):
            cut = [values[rows] for values in piece]
            here = slice(at, at + cut[0].shape[0])
            at = here.stop
            dense_rows(weights_MN[here], cut, labels_M[here, None], loss_M[here], slope_MN[here])
    return loss_M, slope_MN


def parts(values_RV: torch.Tensor) -> Iterator[slice]:
    """Rows of logits in parts of like size that stay in a processor's cache."""
    length = values_RV.shape[0]
    most = max(1, PIECE // values_RV.shape[1])
    rows = max(1, -(-length // -(-length // most))) if length else 1
    for start in range(0, length, rows):
        yield slice(start, min(start + rows, length))


def dense_rows(
    weights_RN: torch.Tensor,
    values_NRV: Sequence[torch.Tensor],
    labels_R1: torch.Tensor,
    loss_R: torch.Tensor,
    slope_RN: torch.Tensor,
) -> None:
    """Fill in loss (R,) and slope (R, N)."""
    fused_RV = torch.addcmul(values_NRV[0], values_NRV[1], weights_RN[:, 1:2])
    for j in range(2, len(values_NRV)):
        fused_RV.addcmul_(values_NRV[j], weights_RN[:, j : j + 1])
    probabilities_RV = fused_RV.softmax(-1)
    label_R = probabilities_RV.gather(-1, labels_R1).squeeze(-1)
    loss_R.copy_(-label_R.log())
    rough_R = label_R < LEAST
    if bool(rough_R.any()):
        loss_R[rough_R] = -fused_RV[rough_R].log_softmax(-1).gather(-1, labels_R1[rough_R]).squeeze(-1)
    for j in range(1, len(values_NRV)):
        mean_R = torch.linalg.vecdot(probabilities_RV, values_NRV[j])
        slope_RN[:, j] = mean_R - values_NRV[j].gather(-1, labels_R1).squeeze(-1)


@torch.no_grad()
def _over_points(weights_MN: torch.Tensor, points: Points) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss (M,), slope (M, N) and bound (M,), as many positions at a time as have a few points."""
    mass_M1 = torch.empty(len(weights_MN), 1, dtype=torch.float64, device=weights_MN.device)
    means_MN = torch.empty_like(weights_MN)
    ends_M = points.counts.cumsum(0).tolist()
    first = at = 0
    while first < len(ends_M):
        last = first + 1
        while last < len(ends_M) and ends_M[last] - at <= FEW_POINTS:
            last += 1
        rows, piece = slice(first, last), slice(at, ends_M[last - 1])
        cut = [values[piece] for values in points.values]
        mass_M1[rows], means_MN[rows] = _point_rows(weights_MN[rows], cut, points.counts[rows])
        first, at = last, piece.stop
    excess_M = (weights_MN * points.gaps).sum(-1)
    mass_M = mass_M1.squeeze(-1)
    bound_M = torch.where(mass_M > excess_M, -torch.log1p(-excess_M / mass_M), torch.inf)
    loss_M = mass_M.log() - (weights_MN.double() * points.own).sum(-1)
    differences_MN = points.own - points.own[:, :1]
    return loss_M.float(), means_MN - differences_MN, bound_M.float()


def _point_rows(
    weights_RN: torch.Tensor, values_NP: Sequence[torch.Tensor], counts_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fused mass (R, 1) and the means of d_j (R, N), the first of which is zero; float64."""
    weights_PN = weights_RN.repeat_interleave(counts_R, dim=0)
    fused_P = values_NP[0]
    for j in range(1, len(values_NP)):
        fused_P = torch.addcmul(fused_P, values_NP[j], weights_PN[:, j])
    mass_P = fused_P.exp().double()  # sums of thousands in float32 would be off by more than the bound
    columns = [mass_P, *(mass_P * values for values in values_NP[1:])]
    sums_RN = torch.segment_reduce(torch.stack(columns, -1), "sum", lengths=counts_R)
    mass_R1 = sums_RN[:, :1]
    means_RN = sums_RN / mass_R1
    means_RN[:, 0] = 0
    return mass_R1, means_RN
