"""Texts as vectors: the mean of a model's last hidden states over each text's tokens (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["mean_states"]


def mean_states(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_tokens: int = 512,
    batch_tokens: int = 8192,
    on_progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """(texts, hidden size) float32: mean of the last hidden states of a causal LM over the tokens of each text.

    Longer texts are cut at `max_tokens`; texts of like length go together, at most `batch_tokens` with their padding.
    Raises ValueError for a text without any token.
    """
    encoded = [tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
    empty = next((i for i, ids in enumerate(encoded) if not ids), None)
    if empty is not None:
        raise ValueError(f"text {empty + 1} has no token for this tokenizer; leave it out")
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    vectors: np.ndarray | None = None
    done = 0
    while done < len(order):
        count = max(1, batch_tokens // len(encoded[order[done]]))
        while count > 1 and count * len(encoded[order[min(done + count, len(order)) - 1]]) > batch_tokens:
            count -= 1
        chosen = order[done : done + count]
        means = _means(model, [encoded[i] for i in chosen])
        if vectors is None:
            vectors = np.zeros((len(texts), means.shape[1]), dtype=np.float32)
        vectors[chosen] = means
        done += len(chosen)
        on_progress(done)
    return np.zeros((0, 0), dtype=np.float32) if vectors is None else vectors


@torch.no_grad()
def _means(model: Any, rows: list[list[int]]) -> np.ndarray:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    device = model.device
    states = model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.float()
    weights = mask.to(device).unsqueeze(-1)
    return ((states * weights).sum(1) / weights.sum(1)).cpu().numpy()
