"""From the specialists' hidden states at response positions to weights and losses, for training and evaluation.

Legend: M response positions of a batch laid end to end, B batch, Q columns, N specialists, D hidden, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ultrafuser.modeling.cache import SpecialistCache
from ultrafuser.modeling.evidence import read_evidence
from ultrafuser.modeling.gate import Gate, normalise
from ultrafuser.modeling.head import fused_logits
from ultrafuser.modeling.inputs import Responses, check_labels, forced_weights, keep_available
from ultrafuser.modeling.loss import CHUNK_BYTES, response_loss
from ultrafuser.modeling.mixture import mixture_loss, union_logs
from ultrafuser.modeling.parts import FusedParts


class RespondingMixin(FusedParts):
    """Mixed into the fused model: what happens after the specialists have read."""

    gate: Gate

    def respond(
        self,
        hidden_MD: Sequence[torch.Tensor],
        labels_M: torch.Tensor | None,
        available_MN: torch.Tensor | None = None,
        gate_weights_MN: torch.Tensor | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gate weights (M, N) and loss (M,) in nats at response positions, from the specialists' hidden states there.

        Of a gate that `holds` pass what `answer_weights` gives.
        `available_MN` bool says which specialists take part (default: all; their hidden states are 0 elsewhere),
        `gate_weights_MN` replaces the gate's weights. `chunk_bytes`: logits held at once. Raises ValueError where a
        label is no token of the fused vocabulary.
        """
        alignment, heads = self.alignment, self.heads
        if alignment is None:
            weights = self._weigh(hidden_MD) if gate_weights_MN is None else gate_weights_MN
        else:
            if available_MN is None:
                available_MN = torch.ones(hidden_MD[0].shape[0], len(hidden_MD), dtype=torch.bool)
            weights = self._weigh(hidden_MD, available_MN)
            if gate_weights_MN is not None:
                weights = keep_available(gate_weights_MN, available_MN)
        if labels_M is None:
            return weights, None
        check_labels(labels_M, heads[0].vocab_size)
        if alignment is None:
            return weights, response_loss(weights, hidden_MD, heads, self.config.fusion["rule"], labels_M, chunk_bytes)
        assert available_MN is not None
        return weights, mixture_loss(weights, hidden_MD, heads, labels_M, alignment, available_MN, chunk_bytes)

    def response_logits(self, weights_MN: torch.Tensor, hidden_MD: Sequence[torch.Tensor]) -> torch.Tensor:
        """Fused logits (M, V); where tokenizers differ log-probabilities of canonical ids, -inf for special ones."""
        if self.alignment is None:
            return fused_logits(weights_MN, hidden_MD, self.heads, self.config.fusion["rule"])
        own = [head.logits(hidden) for head, hidden in zip(self.heads, hidden_MD, strict=True)]
        return union_logs(weights_MN, own, self.alignment)[:, : self.config.vocab_size]

    def answer_weights(self, given: Any, hidden_MD: Sequence[torch.Tensor], form: Responses) -> torch.Tensor | None:
        """Weights (M, N) where the gate is not to be asked at each position: those given, or those of a gate that
        `holds`, which are its weights at the first position of each answer. None elsewhere.
        """
        device = hidden_MD[0].device
        if given is not None:
            return forced_weights(given, form.keep.shape, self.n_specialists, device)[form.keep]
        if not self.gate.holds:
            return None
        answers_M = form.answers.to(device)
        first_A = torch.nn.functional.pad(answers_M.diff(), (1, 0), value=1).nonzero()[:, 0]
        return self._weigh([states[first_A.to(states.device)] for states in hidden_MD])[answers_M]

    def prompt_weights(
        self,
        given: Any,
        hidden_BQD: Sequence[torch.Tensor],
        prompt_ids: torch.Tensor | None,
        past: int,
        cache: SpecialistCache | None,
    ) -> Any:
        """`given`; without, the weights (B, N) of a gate that `holds`, decided at the last column of the prompts
        (B, N, P) and kept in the cache.

        `past` columns come before this call. None for other gates, without prompts, and while their last column is
        still to come, as in a prefill by chunks.
        """
        if given is not None or prompt_ids is None or not self.gate.holds:
            return given
        if cache is not None and cache.answer_weights is not None:
            return cache.answer_weights
        column = prompt_ids.shape[-1] - 1 - past
        if not 0 <= column < hidden_BQD[0].shape[1]:
            return None
        weights_BN = self._weigh([states[:, column] for states in hidden_BQD])
        if cache is not None:
            cache.answer_weights = weights_BN
        return weights_BN

    def _weigh(
        self,
        hidden: Sequence[torch.Tensor],
        available: torch.Tensor | None = None,
        evidence: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The gate's weights (..., N), in float32 also under autocast; `evidence` (..., N, F) where it is known."""
        with torch.autocast(device_type=hidden[0].device.type, enabled=False):
            if self.gate.reads_evidence and evidence is None:
                evidence = read_evidence(hidden, self.heads)
            return normalise(self.gate(hidden, evidence), self.config.fusion["top_k"], available)
