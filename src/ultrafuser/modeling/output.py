"""What the fused model returns."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput


@dataclass
class UltraFuserOutput(ModelOutput):
    """Result of `UltraFuserForCausalLM.forward`.

    Legend: B batch, K positions kept (of T visible columns, or R response positions), N specialists, V vocabulary.

    Fields:
        loss: scalar, mean cross entropy per response token (nats), or the sum over `num_items_in_batch`.
        logits: (B, K, V) float32 fused logits; for the rule "probabilities" log-probabilities. None when not asked for.
        gate_weights: (B, K, N) float32, sums to one over N; zero at padded response positions.
        token_loss: (B, R) float32 nats per response token, 0 where the label is -100; carries gradients.
        past_key_values: a `SpecialistCache`.
        hidden_states: tuple of N tensors (B, K, D_j), the last hidden states, when `output_hidden_states` is set.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    gate_weights: torch.Tensor | None = None
    token_loss: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
