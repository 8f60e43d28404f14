"""Fusion rules: how gate weights and the specialists' logits become one distribution.

Legend: B batch, T time (any leading shape will do), N specialists, V vocabulary.
Each rule is the plain reference; `head.py` holds the fast paths that never build the (..., N, V) tensor.
"""

from collections.abc import Callable

import torch


def mix_logits(gate_weights_BTN: torch.Tensor, logits_BTNV: torch.Tensor) -> torch.Tensor:
    """The paper's rule: sum_j w_j o_j, logits (..., V) (Ding et al., ACL 2025, section 3.1)."""
    return (gate_weights_BTN.unsqueeze(-1) * logits_BTNV).sum(dim=-2)


def mix_probabilities(gate_weights_BTN: torch.Tensor, logits_BTNV: torch.Tensor) -> torch.Tensor:
    """Log of the weighted mean of the specialists' probabilities: log sum_j w_j softmax(o_j), (..., V)."""
    # A weight of zero (top-k, forced weights) stays finite here, or its gradient would be 0 * inf.
    log_weights = gate_weights_BTN.clamp_min(torch.finfo(gate_weights_BTN.dtype).tiny).log().unsqueeze(-1)
    return torch.logsumexp(log_weights + logits_BTNV.log_softmax(dim=-1), dim=-2)


FUSION_RULES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "logits": mix_logits,
    "probabilities": mix_probabilities,
}
