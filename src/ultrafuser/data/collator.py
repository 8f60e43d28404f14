"""Examples to one batch of response-aligned tensors.

B batch, N specialists, T tokens of the longest sequence, R response positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ultrafuser.data.dataset import Example

__all__ = ["IGNORE", "ResponseCollator"]

IGNORE = -100  # the label that the loss leaves out


class ResponseCollator:
    """Pads examples on the right into the training form of `UltraFuserForCausalLM.forward`.

    Returns sequence_ids (B,N,T), sequence_mask (B,N,T), response_index (B,N,R), labels (B,R) with -100 padding and
    category (B,), all int64. Where tokenizers differ, response_index is -1 at labels that a specialist takes no part
    in, and padding is 0, an id that all have. `multiple` rounds T and R up (GPUs like 8); padding is masked either way.
    """

    def __init__(self, pad_token_id: int | None = 0, *, multiple: int = 1) -> None:
        self.pad_token_id = 0 if pad_token_id is None else pad_token_id
        self.multiple = multiple

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        n_specialists = len(examples[0].prompts)
        n_positions = self._rounded(max(example.n_response_tokens for example in examples))
        n_tokens = self._rounded(max(example.length for example in examples))
        padding = self.pad_token_id if examples[0].own is None else 0
        ids_BNT = np.full((len(examples), n_specialists, n_tokens), padding, dtype=np.int64)
        mask_BNT = np.zeros_like(ids_BNT)
        index_BNR = np.zeros((len(examples), n_specialists, n_positions), dtype=np.int64)
        labels_BR = np.full((len(examples), n_positions), IGNORE, dtype=np.int64)
        for b, example in enumerate(examples):
            labels = np.concatenate(example.responses)
            labels_BR[b, : len(labels)] = labels
            for j in range(n_specialists):
                ids, places = example.sequence(j)
                ids_BNT[b, j, : len(ids)] = ids
                mask_BNT[b, j, : len(ids)] = 1
                index_BNR[b, j, : len(places)] = places
        return {
            "sequence_ids": torch.from_numpy(ids_BNT),
            "sequence_mask": torch.from_numpy(mask_BNT),
            "response_index": torch.from_numpy(index_BNR),
            "labels": torch.from_numpy(labels_BR),
            "category": torch.tensor([example.category for example in examples]),
        }

    def _rounded(self, size: int) -> int:
        return -(-size // self.multiple) * self.multiple
