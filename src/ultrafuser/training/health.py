"""How the gate is doing, from the batches it is trained on: mean weights, entropy and loss by domain, collapse.

The sums ride along with the forward pass that is made anyway.
C categories, B batch, R response positions, N specialists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ultrafuser.data.collator import IGNORE

__all__ = ["HIGH", "LOW", "GateHealth", "collapse_warnings"]

LOW, HIGH = 0.01, 0.99  # a mean weight beyond these in every domain is called a collapse


class GateHealth:
    """Sums over a logging window; `take` gives the means and starts anew."""

    def __init__(self, categories: Sequence[str], specialists: Sequence[str]) -> None:
        self.categories = list(categories)
        self.specialists = list(specialists)
        self._sums_CX: torch.Tensor | None = None  # loss, tokens, entropy, then the N weights

    @torch.no_grad()
    def add(
        self,
        category_B: torch.Tensor,
        labels_BR: torch.Tensor,
        token_loss_BR: torch.Tensor,
        weights_BRN: torch.Tensor,
    ) -> None:
        """Count one micro-batch; everything stays on the device."""
        keep_BR = labels_BR != IGNORE
        weights_BRN = weights_BRN.detach().float() * keep_BR[..., None]
        entropy_BR = torch.special.entr(weights_BRN).sum(-1)
        columns = [token_loss_BR.detach().float(), keep_BR.float(), entropy_BR]
        rows_BX = torch.cat([torch.stack([column.sum(1) for column in columns], 1), weights_BRN.sum(1)], 1)
        if self._sums_CX is None:
            self._sums_CX = rows_BX.new_zeros((len(self.categories), rows_BX.shape[1]), dtype=torch.float64)
        self._sums_CX.index_add_(0, category_B, rows_BX.double())

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor] | None = None) -> dict[str, Any]:
        """Loss (nats per token), gate weights and gate entropy (nats) by domain since the last call.

        `reduce` sums a tensor over all processes. A domain that was not seen is left out.
        """
        if self._sums_CX is None:
            return {}
        sums = self._sums_CX if reduce is None else reduce(self._sums_CX)
        self._sums_CX = None
        found: dict[str, Any] = {"gate_weights": {}, "gate_entropy": {}}
        for name, row in zip(self.categories, sums.tolist(), strict=True):
            tokens = row[1]
            if not tokens:
                continue
            found[f"loss_{name}"] = row[0] / tokens
            found["gate_entropy"][name] = row[2] / tokens
            found["gate_weights"][name] = dict(
                zip(self.specialists, (value / tokens for value in row[3:]), strict=True)
            )
        return found


def collapse_warnings(gate_weights: dict[str, dict[str, float]]) -> dict[str, str]:
    """A warning by specialist whose mean weight ({domain: {specialist: weight}}) is near 0, or near 1, everywhere."""
    warnings: dict[str, str] = {}
    rows = list(gate_weights.values())
    if not rows or len(rows[0]) < 2:
        return warnings
    for specialist in rows[0]:
        weights = [row[specialist] for row in rows]
        if max(weights) < LOW:
            warnings[specialist] = (
                f"the gate hardly uses specialist {specialist!r}: its mean weight is below {LOW:.0%} in every domain; "
                "is its template the one it was trained with?"
            )
        elif min(weights) > HIGH:
            warnings[specialist] = (
                f"the gate has collapsed onto specialist {specialist!r}: its mean weight is above {HIGH:.0%} in every "
                "domain; lower the learning rate or look at the data of the other domains"
            )
    return warnings
