"""Fewer points than tokens: tokens that the specialists rank alike are merged, within a bound on the fused mass.

Legend: R positions, N specialists, V vocabulary, S tokens looked at one by one, C points, K levels, G buckets of
importance.

Merged tokens become one point that has the sum of their probabilities under each specialist. By Hoelder's inequality
sum_v prod_j p_j(v)^w_j <= prod_j P_j^w_j. The other way round, the logarithm of their ratio is a cumulant generating
function of the log ratios d = log p_j - log p_k: it is zero at every corner of the simplex of weights, and its second
derivatives are variances of d under a tilted distribution. With c = 1 - 1/N, r the largest range of a log ratio among
the merged tokens and s^2 its largest variance at equal weights, these are at most min(r^2 / 4, s^2 exp(c r)), so that
ratio >= exp(-c^2 / 2 min(r^2 / 4, s^2 exp(c r))).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["MergedPoints", "merge_tokens"]

SIDE = 0.02  # range of log ratios, in nats, within which tokens of the first level are merged
LUMP = 2e-6  # tokens of so little mass together, under every specialist, become one point
BUCKETS_A_NAT = 4
N_BUCKETS = 256
ROW_BITS, LEAST = 50, 1e-300


class MergedPoints(NamedTuple):
    """Points of R positions laid end to end: x_0 and d_1 .. d_(N-1), N tensors (C,) float32; how many each position has
    (R,); by how much their mass may exceed that of the tokens, by specialist (R, N) float32."""

    values: list[torch.Tensor]
    counts: torch.Tensor
    gaps: torch.Tensor


def merge_tokens(logs_NRV: Sequence[torch.Tensor], side: float = SIDE, lump: float = LUMP) -> MergedPoints:
    """Points for the log probabilities of N specialists (R, V) each.

    Tokens are taken by their importance, the largest of their probabilities. The less mass is left, the farther apart
    may log ratios of merged tokens lie: `side` nats while all of it is left, M^(-1/(N+1)) times as much at mass M.
    """
    n_rows, device = logs_NRV[0].shape[0], logs_NRV[0].device
    level_RV = _levels(logs_NRV, lump)
    row_S, token_S = (level_RV >= 0).nonzero(as_tuple=True)
    logs_NS = [logs[row_S, token_S].double() for logs in logs_NRV]
    key_S = _keys(row_S, level_RV[row_S, token_S], logs_NS, side)
    key_C, point_S = torch.unique(key_S, return_inverse=True)
    mass_NC = [
        torch.zeros(len(key_C), dtype=torch.float64, device=device).index_add_(0, point_S, x.exp()) for x in logs_NS
    ]
    excess_C = _excess(logs_NS, point_S, len(key_C))
    row_C = key_C >> ROW_BITS
    counts_R = torch.bincount(row_C, minlength=n_rows)
    lump_NR = [_lumps(logs, level_RV) for logs in logs_NRV]
    gaps = [
        torch.zeros_like(rest).index_add_(0, row_C, mass * excess_C) + rest
        for mass, rest in zip(mass_NC, lump_NR, strict=True)
    ]
    order = torch.argsort(torch.cat([row_C, torch.arange(n_rows, device=device)]), stable=True)
    logs_NC = [torch.cat([a, b]).clamp_min(LEAST).log()[order] for a, b in zip(mass_NC, lump_NR, strict=True)]
    values = [logs_NC[0].float(), *((logs - logs_NC[0]).float() for logs in logs_NC[1:])]
    return MergedPoints(values, counts_R + 1, torch.stack(gaps, -1).float())


def _levels(logs_NRV: Sequence[torch.Tensor], lump: float) -> torch.Tensor:
    """The decade (R, V) of the mass that is left when a token's turn comes, 0, 1, ..; -1 for tokens of the lump."""
    importance_RV = logs_NRV[0]
    for logs in logs_NRV[1:]:
        importance_RV = torch.maximum(importance_RV, logs)
    bucket_RV = (importance_RV * -BUCKETS_A_NAT).clamp_(0, N_BUCKETS - 1).long()
    left_RG = torch.zeros(len(bucket_RV), N_BUCKETS, dtype=torch.float64, device=bucket_RV.device)
    for logs in logs_NRV:
        mass_RG = torch.zeros_like(left_RG).scatter_add_(1, bucket_RV, logs.double().exp())
        left_RG = torch.maximum(left_RG, mass_RG.flip(1).cumsum(1).flip(1))
    level_RG = torch.floor(-torch.log10(left_RG.clamp_(lump / 10, 1.0))).clamp_min_(0).to(torch.int8)
    level_RG[left_RG <= lump] = -1
    return level_RG.gather(1, bucket_RV)


def _keys(row_S: torch.Tensor, level_S: torch.Tensor, logs_NS: Sequence[torch.Tensor], side: float) -> torch.Tensor:
    """One whole number for each position, level and cell of log ratios, rising with the position.

    Two cells may rarely share a number: their tokens are then merged, and the bound says so.
    """
    width_S = side * 10 ** (level_S.double() / (len(logs_NS) + 1))
    cell_S = level_S.long()
    for logs in logs_NS[1:]:
        cell_S = cell_S * 1_000_003 + torch.floor((logs - logs_NS[0]) / width_S).long()
    return (row_S << ROW_BITS) + torch.remainder(cell_S * 2_654_435_761, 1 << ROW_BITS)


def _excess(logs_NS: Sequence[torch.Tensor], point_S: torch.Tensor, n_points: int) -> torch.Tensor:
    """By how much of itself a point's mass may exceed that of its tokens, (C,)."""
    nothing_C = torch.zeros(n_points, dtype=torch.float64, device=point_S.device)
    mass_S = (sum(logs_NS[1:], logs_NS[0]) / len(logs_NS)).exp()
    mass_C = nothing_C.index_add(0, point_S, mass_S).clamp_min_(LEAST)
    range_C, variance_C, share = nothing_C, nothing_C, 1 - 1 / len(logs_NS)
    for j in range(len(logs_NS)):
        for k in range(j):
            ratio_S = logs_NS[j] - logs_NS[k]
            top_C = torch.full_like(nothing_C, -math.inf).scatter_reduce_(0, point_S, ratio_S, "amax")
            low_C = torch.full_like(nothing_C, math.inf).scatter_reduce_(0, point_S, ratio_S, "amin")
            range_C = torch.maximum(range_C, top_C - low_C)
            above_S = ratio_S - low_C[point_S]
            mean_C = nothing_C.index_add(0, point_S, mass_S * above_S) / mass_C
            square_C = nothing_C.index_add(0, point_S, mass_S * above_S**2) / mass_C
            variance_C = torch.maximum(variance_C, square_C - mean_C**2)
    least_C = torch.minimum(range_C**2 / 4, variance_C * (share * range_C).exp())
    return -torch.expm1(-(share**2) / 2 * least_C)


def _lumps(logs_RV: torch.Tensor, level_RV: torch.Tensor) -> torch.Tensor:
    """Mass (R,) float64 of the tokens that are merged without looking at them."""
    return logs_RV.double().exp().masked_fill_(level_RV >= 0, 0).sum(-1)
