"""The specialists' output heads, the fused logits and the response loss.

Legend: B batch, R response positions, M response positions of a batch laid end to end, N specialists, D hidden, V vocabulary.

Identity behind the fast path (logit mixture): sum_j w_j (W_j h_j) = [W_1 .. W_n] [w_1 h_1; ..; w_n h_n]. The fused head is
one linear layer on the scaled hidden states, so N x V logits never need to exist: each specialist's product is added into
one (M, V) tensor. Head biases enter as w_j b_j and scalar logit scales fold into w_j. A final soft cap breaks it: there the
plain rule is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ultrafuser.modeling.fusion import FUSION_RULES, mix_logits

CHUNK_BYTES = 256 * 2**20
"""A float32 logit tensor larger than this is made chunk by chunk and made again in the backward pass."""


@dataclass(frozen=True)
class Head:
    """One specialist's head: `softcap(scale * module(h))`, cut to the real vocabulary.

    Fields: the output layer; factor on its logits; soft cap c in c * tanh(o / c) or None; number of real tokens.
    """

    module: nn.Module
    scale: float
    softcap: float | None
    vocab_size: int

    @property
    def is_linear(self) -> bool:
        """Whether the one-linear identity holds: a plain Linear, no soft cap, no hook that moves weights about."""
        return self.softcap is None and type(self.module) is nn.Linear and not hasattr(self.module, "_hf_hook")

    @property
    def weight_VD(self) -> torch.Tensor:
        """Rows of the real tokens only: padded rows never get any probability."""
        return self.module.weight[: self.vocab_size]

    def logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """This specialist's own logits, float32, (M, V)."""
        if self.is_linear:
            bias = self.module.bias
            logits = F.linear(hidden_MD, self.weight_VD, None if bias is None else bias[: self.vocab_size])
        else:
            logits = self.module(hidden_MD)[..., : self.vocab_size]
        logits = logits.float() if logits.dtype != torch.float64 else logits
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def build_head(specialist: Any, vocab_size: int) -> Head:
    """The head of a causal LM. Raises ValueError where it has no output layer."""
    module = specialist.get_output_embeddings()
    if module is None:
        raise ValueError(
            f"{type(specialist).__name__} has no output layer that reads hidden states; it cannot be fused"
        )
    config = specialist.config.get_text_config(decoder=True)
    scale = 1.0
    for field in ("logit_scale", "lm_head_multiplier", "output_multiplier"):  # Cohere, Falcon-H1
        value = getattr(config, field, None)
        scale *= 1.0 if value is None else float(value)
    divisor = getattr(config, "logits_scaling", None)  # Granite
    scale /= 1.0 if divisor is None else float(divisor)
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return Head(module, scale, None if softcap is None else float(softcap), vocab_size)


def fused_logits_reference(
    gate_weights_MN: torch.Tensor, hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head], rule: str
) -> torch.Tensor:
    """Fused logits by the plain rule, (..., V): builds the (..., N, V) tensor."""
    logits = torch.stack([head.logits(hidden) for head, hidden in zip(heads, hidden_MD, strict=True)], dim=-2)
    return FUSION_RULES[rule](gate_weights_MN, logits)


def fused_logits(
    gate_weights_MN: torch.Tensor, hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head], rule: str
) -> torch.Tensor:
    """Fused logits (..., V) in float32, without the N x V tensor where the rule and the heads allow it."""
    if FUSION_RULES[rule] is not mix_logits:
        return fused_logits_reference(gate_weights_MN, hidden_MD, heads, rule)
    total = None
    for j, (hidden, head) in enumerate(zip(hidden_MD, heads, strict=True)):
        weight = gate_weights_MN[..., j : j + 1]
        part = _weighted_logits(weight, hidden, head, total)
        total = part
    assert total is not None
    return total


def _weighted_logits(
    weight_M1: torch.Tensor, hidden_MD: torch.Tensor, head: Head, total_MV: torch.Tensor | None
) -> torch.Tensor:
    """`total + w_j o_j`, by the one-linear identity where it holds."""
    if not head.is_linear:
        part = weight_M1.to(hidden_MD.device) * head.logits(hidden_MD)
        return part if total_MV is None else total_MV + part.to(total_MV.device)
    weight_M1 = weight_M1.to(hidden_MD.device)
    scaled = (hidden_MD.float() * (weight_M1 * head.scale)).to(hidden_MD.dtype)
    single = hidden_MD.dtype in (torch.float32, torch.float64) and head.module.bias is None
    if total_MV is not None and single and total_MV.device == scaled.device and total_MV.dtype == scaled.dtype:
        flat = torch.addmm(total_MV.flatten(0, -2), scaled.flatten(0, -2), head.weight_VD.t())
        return flat.view_as(total_MV)
    part = F.linear(scaled, head.weight_VD)
    part = part if single else part.float()
    if head.module.bias is not None:
        part = part + weight_M1 * head.scale * head.module.bias[: head.vocab_size].float()
    return part if total_MV is None else total_MV + part.to(total_MV.device)


def _rows(
    gate_weights_MN: torch.Tensor,
    hidden_MD: tuple[torch.Tensor, ...],
    heads: Sequence[Head],
    rule: str,
    labels_M: torch.Tensor,
) -> torch.Tensor:
    """Cross entropy of each row, (M,) nats."""
    logits = fused_logits(gate_weights_MN, hidden_MD, heads, rule)
    return F.cross_entropy(logits, labels_M.to(logits.device), reduction="none")


def response_loss_reference(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    rule: str,
    labels_M: torch.Tensor,
) -> torch.Tensor:
    """Cross entropy of each row, (M,) nats, by the plain rule with all N x V logits in memory."""
    logits = fused_logits_reference(gate_weights_MN, hidden_MD, heads, rule)
    return F.cross_entropy(logits, labels_M.to(logits.device), reduction="none")


def response_loss(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    rule: str,
    labels_M: torch.Tensor,
    chunk_bytes: int = CHUNK_BYTES,
) -> torch.Tensor:
    """Cross entropy of each row, (M,) nats, same values and gradients as `response_loss_reference` in less memory."""
    rows = max(1, chunk_bytes // (4 * heads[0].vocab_size))
    hidden = tuple(hidden_MD)
    if labels_M.shape[0] <= rows:
        return _rows(gate_weights_MN, hidden, heads, rule, labels_M)
    parts = []
    for start in range(0, labels_M.shape[0], rows):
        piece = slice(start, start + rows)
        arguments = (gate_weights_MN[piece], tuple(h[piece] for h in hidden), heads, rule, labels_M[piece])
        parts.append(checkpoint(_rows, *arguments, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts)
