"""What a gate can know of the specialists' own predictions at a position: how sure each is, and how far all agree.

Legend: M positions laid end to end (any leading shape will do), R rows of them held at once, N specialists, D hidden, V
vocabulary, F features.

With p_j specialist j's own distribution, j's features are, in this order: its entropy in nats; the log of its largest
probability; the mean probability that it gives to the others' most likely tokens (1 where there is no other); KL(p_j ||
mean of all p) in nats, which is at most log N. They are detached: a specialist learns what to say, never how sure to
look to the gate, and no N x V logits are kept for a backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ultrafuser.modeling.head import Head

FEATURES = ("entropy", "log of the largest probability", "agreement with the others", "KL to the mean of all")
CHUNK_BYTES = 64 * 2**20
"""Log probabilities of all specialists held at once, in bytes of float32."""


@torch.no_grad()
def read_evidence(
    hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head], chunk_bytes: int = CHUNK_BYTES
) -> torch.Tensor:
    """The features of every specialist, (..., N, F) float32 without a graph, from N last hidden states (..., D_j).

    The heads run once more for it, over a chunk of positions at a time. All must share one vocabulary.
    """
    lead, device = hidden_MD[0].shape[:-1], hidden_MD[0].device
    flat = [hidden.flatten(0, -2) for hidden in hidden_MD]
    rows = max(1, chunk_bytes // (4 * heads[0].vocab_size * (len(heads) + 2)))
    found = [
        evidence_of([head.logits(h[start : start + rows]).to(device) for head, h in zip(heads, flat, strict=True)])
        for start in range(0, len(flat[0]), rows)
    ]
    features = torch.cat(found) if found else torch.zeros(0, len(heads), len(FEATURES), device=device)
    return features.view(*lead, len(heads), len(FEATURES))


@torch.no_grad()
def evidence_of(logits_NRV: Sequence[torch.Tensor]) -> torch.Tensor:
    """The features (R, N, F) of N specialists' logits, or log probabilities, (R, V)."""
    logs_NRV = torch.stack([logits.log_softmax(dim=-1) for logits in logits_NRV])
    n = len(logs_NRV)
    largest_NR, tokens_NR = logs_NRV.max(dim=-1)
    mean_RV = logs_NRV.logsumexp(dim=0) - math.log(n)
    columns = []
    for j, logs_RV in enumerate(logs_NRV):
        own_RV = logs_RV.exp()
        entropy_R = -torch.linalg.vecdot(own_RV, logs_RV)
        apart_R = (-entropy_R - torch.linalg.vecdot(own_RV, mean_RV)).clamp_min(0)
        others_R = own_RV.gather(-1, tokens_NR.t()).sum(-1) - largest_NR[j].exp()
        agreement_R = others_R / (n - 1) if n > 1 else torch.ones_like(entropy_R)
        columns.append(torch.stack([entropy_R, largest_NR[j], agreement_R, apart_R], dim=-1))
    return torch.stack(columns, dim=-2)
