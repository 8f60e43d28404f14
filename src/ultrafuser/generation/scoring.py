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
from ultrafuser.generation.engine import Message, TokenEvent, Weights, chat_templates, check_length, text_decoder
from ultrafuser.generation.examples import example_of_ids, tokens_of
from ultrafuser.modeling.loss import CHUNK_BYTES, response_loss
from ultrafuser.modeling.mixture import label_log_probabilities
from ultrafuser.templates import encode_conversation
from ultrafuser.templates.encode import shared_places

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
    encoded = encode_conversation(messages, chat_templates(model), tokens_of(model, tokenizer))
    responses = [*encoded.response_ids[:-1], encoded.response_ids[-1] if answer_ids is None else list(answer_ids)]
    flat = _events(model, tokenizer, example_of_ids(model, encoded.prompt_ids, responses), [], gate_weights)
    ends = np.cumsum([len(ids) for ids in responses]).tolist()
    return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def score_text(model: Any, tokenizer: Any, text: str, *, gate_weights: Weights | None = None) -> list[TokenEvent]:
    """The tokens of a text read without any template, after the begin-of-sequence token.

    Where no specialist's tokenizer has one, nothing predicts the first token: it comes without weights.
    """
    if not text:
        raise ValueError("text: it is empty; give at least one word")
    if model.alignment is not None:
        return _events(model, tokenizer, *_text_example(model.alignment, text), gate_weights)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = tokenizer.bos_token_id
    prompt = [ids[0]] if start is None else [start]
    rest = ids[1:] if start is None else ids
    example = example_of_ids(model, [[prompt]] * model.n_specialists, [rest])
    return _events(model, tokenizer, example, [] if start is not None else ids[:1], gate_weights)


def _text_example(alignment: Any, text: str) -> tuple[Example, list[int]]:
    """A text that each specialist reads after its own begin-of-sequence token, if it has one, and ids without weights.

    A specialist without that token cannot predict the first canonical token; where none has it, nobody does.
    """
    tables, data = alignment.tables, text.encode("utf-8", "surrogatepass")
    begins = [getattr(table.tokenizer, "bos_token_id", None) for table in tables]
    own = [table.encode(data) for table in tables]
    labels = own[0]
    skipped = 0 if any(begin is not None for begin in begins) else 1
    # A place of 0 in an empty prompt is before the first token: nothing predicts it (`Example.sequence`).
    places = [shared_places([labels], tables[0], [ids], table)[0] for ids, table in zip(own, tables, strict=True)]
    example = Example(
        id="",
        category=0,
        prompts=[[_array([] if begin is None else [begin])] for begin in begins],
        responses=[_array(labels[skipped:])],
        own=[[_array(ids)] for ids in own],
        places=[[_array(row[skipped:])] for row in places],
    )
    return example, labels[:skipped]


@torch.no_grad()
def _events(
    model: Any, tokenizer: Any, example: Example, before: Sequence[int], gate_weights: Weights | None
) -> list[TokenEvent]:
    """Events of all response tokens, after those of the ids `before`, which nothing predicts."""
    check_length(model, example.length)
    found = _scores(model, example, gate_weights) if example.n_response_tokens else []
    events, scores = [], iter(found)
    for turn, ids in enumerate(example.responses):
        unscored = list(before) if turn == 0 else []
        decoder = text_decoder(model, tokenizer)
        whole = [*unscored, *ids.tolist()]
        for k, token_id in enumerate(whole):
            text = decoder.push(token_id, last=k == len(whole) - 1)
            if k < len(unscored):
                events.append(TokenEvent(token_id, text, (), 0.0))
            else:
                events.append(TokenEvent(token_id, text, *next(scores)))
    return events


def _scores(
    model: Any, example: Example, gate_weights: Weights | None
) -> list[tuple[tuple[float, ...], float, tuple[float, ...]]]:
    """Per response token its weights, log-probability and log-probabilities under each specialist alone."""
    batch = ResponseCollator(model.config.pad_token_id)([example])
    batch.pop("category")
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    output = model(**batch, gate_weights=gate_weights, output_hidden_states=True)
    labels_R = batch["labels"][0]
    hidden_RD = [hidden[0] for hidden in output.hidden_states]
    if model.alignment is None:
        alone_RN = _alone(model, hidden_RD, labels_R)
    else:
        available_RN = batch["response_index"][0].T >= 0
        alone_RN = label_log_probabilities(
            hidden_RD, model.heads, labels_R, model.alignment, available_RN, CHUNK_BYTES
        ).to(model.device)
    columns = (output.gate_weights[0], -output.token_loss[0], alone_RN)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(tuple(weights), fused, tuple(alone)) for weights, fused, alone in rows]


def _alone(model: Any, hidden_RD: Sequence[torch.Tensor], labels_R: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token under each specialist, (R, N)."""
    ones_R1 = torch.ones(len(labels_R), 1, device=model.device)
    columns = [
        -response_loss(ones_R1.to(hidden.device), [hidden], [head], "logits", labels_R.to(hidden.device))
        for hidden, head in zip(hidden_RD, model.heads, strict=True)
    ]
    return torch.stack([column.to(model.device) for column in columns], dim=-1)


def _array(ids: Sequence[int]) -> np.ndarray:
    return np.asarray(ids, dtype=np.int64)
