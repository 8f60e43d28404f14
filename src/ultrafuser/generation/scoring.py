"""Who would have spoken: gate weights and token probabilities of a text that is given, in one pass over the model.

Shapes: B batch (1 here), T time, N specialists, R response positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ultrafuser.data.collator import ResponseCollator
from ultrafuser.data.dataset import Example
from ultrafuser.generation.engine import Message, TokenEvent, Weights, chat_templates, check_length
from ultrafuser.generation.text import IncrementalText
from ultrafuser.modeling.loss import response_loss
from ultrafuser.templates import encode_conversation

__all__ = ["score", "score_text", "score_turns"]


def score(
    model: Any, tokenizer: Any, messages: Sequence[Message], *, gate_weights: Weights | None = None
) -> list[TokenEvent]:
    """The tokens of the last answer of a conversation, as if the model had written them (teacher forced)."""
    return score_turns(model, tokenizer, messages, gate_weights=gate_weights)[-1]


def score_turns(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    answer_ids: Sequence[int] | None = None,
    gate_weights: Weights | None = None,
) -> list[list[TokenEvent]]:
    """The tokens of every answer of a conversation that ends in one, the end-of-sequence token included.

    Every specialist reads the conversation in its own template. `logprob` and `specialist_logprobs` are the given
    token's under the fused model and under each specialist alone. `answer_ids` is the last answer as ids, for a
    conversation that ends in a user message: an answer just generated is scored as it is, not as its text would be
    cut into tokens again. Raises ContextFull when the conversation is too long.
    """
    if answer_ids is not None:
        messages = [*messages, {"role": "assistant", "content": "-"}]  # holds the place; its ids are replaced
    encoded = encode_conversation(messages, chat_templates(model), tokenizer)
    responses = [*encoded.response_ids[:-1], encoded.response_ids[-1] if answer_ids is None else list(answer_ids)]
    flat = _events(model, tokenizer, encoded.prompt_ids, responses, gate_weights)
    ends = np.cumsum([len(ids) for ids in responses]).tolist()
    return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def score_text(model: Any, tokenizer: Any, text: str, *, gate_weights: Weights | None = None) -> list[TokenEvent]:
    """The tokens of a text read without any template, after the begin-of-sequence token.

    Where the tokenizer has none, nothing predicts the first token: it comes without weights.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError("text: it is empty; give at least one word")
    start = tokenizer.bos_token_id
    prompt = [ids[0]] if start is None else [start]
    rest = ids[1:] if start is None else ids
    first: list[TokenEvent] = []
    if start is None:
        first = [TokenEvent(ids[0], IncrementalText(tokenizer).push(ids[0], last=not rest), (), 0.0)]
    if not rest:
        return first
    return first + _events(model, tokenizer, [[prompt]] * model.n_specialists, [rest], gate_weights)


@torch.no_grad()
def _events(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[Sequence[int]]],
    response_ids: Sequence[Sequence[int]],
    gate_weights: Weights | None,
) -> list[TokenEvent]:
    """Events of all response tokens; prompts as [specialist][turn][ids], responses as [turn][ids]."""
    example = Example(
        id="",
        category=0,
        prompts=[[np.asarray(ids, dtype=np.int64) for ids in turns] for turns in prompt_ids],
        responses=[np.asarray(ids, dtype=np.int64) for ids in response_ids],
    )
    check_length(model, example.length)
    batch = ResponseCollator(model.config.pad_token_id)([example])
    batch.pop("category")
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    output = model(**batch, gate_weights=gate_weights, output_hidden_states=True)
    labels_R = batch["labels"][0]
    ones_R1 = torch.ones(len(labels_R), 1, device=model.device)
    alone_NR = [
        -response_loss(ones_R1.to(hidden.device), [hidden[0]], [head], "logits", labels_R.to(hidden.device))
        for hidden, head in zip(output.hidden_states, model.heads, strict=True)
    ]
    alone_RN = torch.stack([row.to(model.device) for row in alone_NR], dim=-1).tolist()
    fused_R, weights_RN = (-output.token_loss[0]).tolist(), output.gate_weights[0].tolist()
    events = []
    position = 0
    for ids in response_ids:
        decoder = IncrementalText(tokenizer)
        for k, token_id in enumerate(ids):
            text = decoder.push(token_id, last=k == len(ids) - 1)
            events.append(
                TokenEvent(token_id, text, tuple(weights_RN[position]), fused_R[position], tuple(alone_RN[position]))
            )
            position += 1
    return events
