"""What a specialist loses by itself where tokenizers differ: over its own tokens of the answers.

Its loss of an answer, in nats, is that of the same bytes, so sums (and nats per byte) compare with the fused model's.
B batch, M response positions of a batch laid end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ultrafuser.data import Example, ResponseCollator
from ultrafuser.modeling.inputs import check_responses
from ultrafuser.modeling.loss import CHUNK_BYTES
from ultrafuser.modeling.mixture import own_log_probabilities
from ultrafuser.modeling.reading import read_one

__all__ = ["loss_alone", "only_specialist"]


def only_specialist(model: Any, weighting: Any) -> int | None:
    """The specialist that forced weights (N,) leave alone where tokenizers differ; None for any other weighting."""
    if weighting is None or model.alignment is None:
        return None
    weights = torch.as_tensor(weighting, dtype=torch.float32)
    if weights.ndim != 1 or int((weights > 0).sum()) != 1:
        return None
    return int(weights.argmax())


@torch.no_grad()
def loss_alone(model: Any, examples: Sequence[Example], j: int) -> list[list[float]]:
    """Per example: loss in nats summed over the specialist's own tokens, canonical response tokens, weights (N)."""
    batch = ResponseCollator(0)([example.of_one(j) for example in examples])
    form = check_responses(batch["sequence_ids"], batch["sequence_mask"], batch["response_index"], batch["labels"], 1)
    states_BTD = read_one(model, j, form.columns(0))
    hidden_MD, labels_M = form.gather(states_BTD, 0), batch["labels"][form.keep].to(states_BTD.device)
    logs_M = own_log_probabilities(hidden_MD, model.heads[j], labels_M, model.alignment.eos[j], CHUNK_BYTES)
    loss_B = -form.spread(logs_M.cpu()).double().sum(1)
    weights = [float(place == j) for place in range(model.n_specialists)]
    return [
        [loss, example.n_response_tokens, *weights] for loss, example in zip(loss_B.tolist(), examples, strict=True)
    ]
