"""Weights and loss of a fused model from stored states, as its training form gives them, without its specialists.

B batch, R response positions of an example, M response positions of a batch laid end to end, D hidden, N specialists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ultrafuser.data.collator import IGNORE
from ultrafuser.modeling.evidence import read_evidence
from ultrafuser.modeling.inputs import check_labels, spread
from ultrafuser.modeling.loss import CHUNK_BYTES, mixed_label_loss, response_loss
from ultrafuser.training.stored_loss import Points, dense_loss, points_loss
from ultrafuser.training.stored_step import gate_step, serves

__all__ = ["Fused", "fused_from_states"]

CPU_ROWS = 96  # positions whose logits are made at once on a CPU: small vocabularies then stay in its caches
LOSS_BOUND = 1e-5  # nats; positions whose loss is not known as closely are left to the heads


class Fused(NamedTuple):
    """Token losses (B, R) in nats and gate weights (B, R, N), zero at padding; a bound on the error of the losses;
    the sum of the losses, to learn from.
    """

    token_loss: torch.Tensor
    gate_weights: torch.Tensor
    bound: float
    total: torch.Tensor


def fused_from_states(
    model: Any, hidden_MD: Sequence[torch.Tensor], labels_BR: torch.Tensor, known: Mapping[str, Any] | None = None
) -> Fused:
    """What the training form of the model's `forward` gives, without running the specialists' bodies.

    Their heads run where nothing is `known` of their predictions, or of the evidence that a gate reads, and at
    positions whose loss is not known to within LOSS_BOUND. Raises ValueError where a label is no token of the fused
    vocabulary.
    """
    keep_BR, vocabulary = labels_BR != IGNORE, model.config.vocab_size
    labels_M = labels_BR[keep_BR]
    check_labels(labels_M, vocabulary)
    top_k, known = model.config.fusion["top_k"], dict(known or {})
    evidence = known.pop("evidence", None)
    if model.gate.reads_evidence and evidence is None:
        evidence = read_evidence(_as_read(model, hidden_MD), model.heads)
    with torch.autocast(device_type=labels_BR.device.type, enabled=False):
        if "pieces" in known and serves(model.gate, labels_M):
            step = gate_step(model.gate, top_k, hidden_MD, known["pieces"], labels_M)
            return Fused(spread(step.loss, keep_BR), spread(step.weights, keep_BR), 0.0, step.total)
        weights_MN = model._weigh(hidden_MD, evidence=evidence)
    loss_M, bound = _loss(model, weights_MN, hidden_MD, labels_M, known)
    return Fused(spread(loss_M, keep_BR), spread(weights_MN, keep_BR), bound, loss_M.sum())


def _as_read(model: Any, hidden_MD: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Stored states in the number format of each specialist's head."""
    return [states.to(s.dtype) for states, s in zip(hidden_MD, model.specialists, strict=True)]


def _loss(
    model: Any,
    weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    labels_M: torch.Tensor,
    known: Mapping[str, Any],
) -> tuple[torch.Tensor, float]:
    """Loss (M,) and a bound on the error of each, by what is known."""
    if "values" in known:
        loss_M, bound_M = points_loss(weights_MN, Points(**known))
        unsure_M = ~(bound_M <= LOSS_BOUND)
        if bool(unsure_M.any()):
            hidden = [states[unsure_M] for states in hidden_MD]
            exact = _loss(model, weights_MN[unsure_M], hidden, labels_M[unsure_M], {})[0]
            loss_M = loss_M.masked_scatter(unsure_M, exact)
        return loss_M, float(bound_M.masked_fill(unsure_M, 0).max()) if len(bound_M) else 0.0
    if "pieces" in known:
        return dense_loss(weights_MN, known["pieces"], labels_M), 0.0
    if "own" in known:
        return mixed_label_loss(weights_MN, known["own"]), 0.0
    heads = model.heads
    hidden_MD = _as_read(model, hidden_MD)
    few = CPU_ROWS * 4 * heads[0].vocab_size * len(heads)
    chunk = min(CHUNK_BYTES, few) if labels_M.device.type == "cpu" else CHUNK_BYTES
    return response_loss(weights_MN, hidden_MD, heads, model.config.fusion["rule"], labels_M, chunk), 0.0
