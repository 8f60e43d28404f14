"""The specialists' output heads and the fused logits.

Legend: M positions laid end to end (any leading shape will do), N specialists, D hidden, V vocabulary.

Identity behind the fast path (logit mixture): sum_j w_j (W_j h_j) = [W_1 .. W_n] [w_1 h_1; ..; w_n h_n]. The fused head
is one linear layer on the scaled hidden states, so N x V logits never need to exist: each specialist's product is added
into one (M, V) tensor. Head biases enter as w_j b_j and scalar logit scales fold into w_j. A final soft cap breaks it:
there the plain rule is used.
Specialists that share a head (adapters on one base) need one product between them: W (sum_j w_j h_j).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ultrafuser.modeling.fusion import FUSION_RULES, mix_logits
from ultrafuser.modeling.numeric import at_least_float32

MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon-H1, Muse
DIVISORS = ("logits_scaling",)  # Granite
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM


@dataclass(frozen=True)
class Head:
    """One specialist's head: `softcap(scale * module(h))`, cut to the real vocabulary.

    Fields: the output layer; factor on its logits; c in c * tanh(logits / c) or None; number of real tokens.
    """

    module: Any
    scale: float
    softcap: float | None
    vocab_size: int

    @property
    def is_linear(self) -> bool:
        """Whether the one-linear identity holds: a plain Linear, no soft cap, no hook that moves its weights about."""
        return self.softcap is None and type(self.module) is nn.Linear and not hasattr(self.module, "_hf_hook")

    def weight(self) -> torch.Tensor:
        """(V, D): rows of the real tokens only, so that padded rows never get any probability."""
        weight = self.module.weight
        return weight if weight.shape[0] == self.vocab_size else weight[: self.vocab_size]

    def bias(self) -> torch.Tensor | None:
        """(V,) or None."""
        bias = getattr(self.module, "bias", None)
        return bias if bias is None or bias.shape[0] == self.vocab_size else bias[: self.vocab_size]

    def logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """This specialist's own logits, float32 (float64 for float64 weights), (M, V)."""
        if self.is_linear:
            logits = functional.linear(hidden_MD, self.weight(), self.bias())
        else:
            logits = self.module(hidden_MD)[..., : self.vocab_size]
        logits = at_least_float32(logits)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def build_head(specialist: Any, vocab_size: int) -> Head:
    """The head of a causal LM. Raises ValueError where it has no output layer."""
    module = specialist.get_output_embeddings()
    if module is None:
        raise ValueError(f"{type(specialist).__name__} has no output layer on its hidden states; it cannot be fused")
    config = specialist.config.get_text_config(decoder=True)
    scale = 1.0
    for field in MULTIPLIERS:
        scale *= _number(config, field, 1.0)
    for field in DIVISORS:
        scale /= _number(config, field, 1.0)
    caps = [cap for field in SOFT_CAPS if (cap := getattr(config, field, None)) is not None]
    return Head(module, scale, float(caps[0]) if caps else None, vocab_size)


def _number(config: Any, field: str, default: float) -> float:
    value = getattr(config, field, None)
    return float(value) if isinstance(value, int | float) else default


@torch.no_grad()
def check_head(specialist: Any, field: str) -> None:
    """Compare `Head` with the specialist's own forward on a few tokens. Raises ValueError where they differ.

    Some architectures do more to their logits than a linear layer, a scale and a soft cap; fusing those would be
    silently wrong.
    """
    vocabulary = specialist.config.get_text_config(decoder=True).vocab_size
    ids = torch.arange(1, 5, device=specialist.device).unsqueeze(0) % vocabulary
    own = at_least_float32(specialist(input_ids=ids, use_cache=False).logits)
    hidden = specialist.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours = build_head(specialist, own.shape[-1]).logits(hidden)
    tolerance = 1e-4 if specialist.dtype in (torch.float32, torch.float64) else 0.05
    if not torch.allclose(own, ours, rtol=tolerance, atol=tolerance * float(own.abs().max().clamp_min(1e-3))):
        raise ValueError(
            f"{field}: {type(specialist).__name__} computes its logits in a way that is not supported (not a linear "
            "layer with an optional scale and soft cap); use another model as this specialist"
        )


def fused_logits_reference(
    gate_weights_MN: torch.Tensor, hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head], rule: str
) -> torch.Tensor:
    """Fused logits by the plain rule, (M, V): builds the (M, N, V) tensor."""
    device = gate_weights_MN.device
    logits = [head.logits(hidden).to(device) for head, hidden in zip(heads, hidden_MD, strict=True)]
    return FUSION_RULES[rule](gate_weights_MN, torch.stack(logits, dim=-2))


def fused_logits(
    gate_weights_MN: torch.Tensor, hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head], rule: str
) -> torch.Tensor:
    """Fused logits (M, V), float32; for the logit mixture without the (M, N, V) tensor, and with one product for all
    specialists that share a head."""
    if FUSION_RULES[rule] is not mix_logits:
        return fused_logits_reference(gate_weights_MN, hidden_MD, heads, rule)
    total_MV: torch.Tensor | None = None
    for members in sharing(heads):
        first = members[0]
        if heads[first].is_linear:
            total_MV = shared_logits(gate_weights_MN, hidden_MD, members, heads[first], total_MV)
        else:
            weight_M1 = gate_weights_MN[..., first : first + 1].to(hidden_MD[first].device)
            total_MV = _add(total_MV, weight_M1 * heads[first].logits(hidden_MD[first]))
    assert total_MV is not None
    return total_MV


def sharing(heads: Sequence[Head]) -> list[list[int]]:
    """Indices of the specialists by head: together where one linear layer serves several, else each alone."""
    found: list[list[int]] = []
    for j, head in enumerate(heads):
        same = next((m for m in found if head.is_linear and heads[m[0]].module is head.module), None)
        if same is None:
            found.append([j])
        else:
            same.append(j)
    return found


def shared_logits(
    gate_weights_MN: torch.Tensor,
    hidden_MD: Sequence[torch.Tensor],
    members: Sequence[int],
    head: Head,
    total_MV: torch.Tensor | None = None,
) -> torch.Tensor:
    """`total + scale (W (sum_j w_j h_j) + (sum_j w_j) b)` of the specialists that share a linear head, (M, V).

    The weights are applied to the hidden states and the sum is made inside the product.
    """
    dtype, device = hidden_MD[members[0]].dtype, hidden_MD[members[0]].device
    weights = [gate_weights_MN[..., j : j + 1].to(device) * head.scale for j in members]
    mixed_MD, weight_M1 = hidden_MD[members[0]] * weights[0], weights[0]
    for j, own_M1 in zip(members[1:], weights[1:], strict=True):
        mixed_MD, weight_M1 = mixed_MD + hidden_MD[j] * own_M1, weight_M1 + own_M1
    mixed_MD, matrix, bias = mixed_MD.to(dtype), head.weight(), head.bias()
    if bias is not None:
        total_MV = _add(total_MV, weight_M1 * at_least_float32(bias))
    if total_MV is not None and total_MV.dtype == dtype and total_MV.device == device:
        return torch.addmm(total_MV.flatten(0, -2), mixed_MD.flatten(0, -2), matrix.t()).view_as(total_MV)
    return _add(total_MV, at_least_float32(functional.linear(mixed_MD, matrix)))


def shared_slopes(
    pull_MV: torch.Tensor, hidden_MD: Sequence[torch.Tensor], members: Sequence[int], head: Head
) -> dict[int, torch.Tensor]:
    """sum_v pull_v o_jv (M,) of each specialist that shares a linear head, by its index, from one product W^T pull."""
    matrix, bias = head.weight(), head.bias()
    pull_MV = pull_MV.to(matrix.device)
    back_MD = at_least_float32(pull_MV.to(matrix.dtype) @ matrix)
    constant_M: Any = 0.0 if bias is None else pull_MV @ at_least_float32(bias)
    return {
        j: head.scale * (torch.linalg.vecdot(back_MD, hidden_MD[j].to(back_MD.dtype)) + constant_M) for j in members
    }


def _add(total_MV: torch.Tensor | None, part_MV: torch.Tensor) -> torch.Tensor:
    return part_MV if total_MV is None else total_MV + part_MV.to(total_MV.device)
