"""How likely given answers are: log-likelihoods of continuations after conversations, in batches of like length.

Each specialist reads the conversation in its own template; the continuation's tokens are shared, as in training,
or canonical where the specialists' tokenizers differ.

Shapes: B batch, R response positions, N specialists, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ultrafuser.data.collator import ResponseCollator
from ultrafuser.data.dataset import Example
from ultrafuser.generation.engine import ContextFull, Message, chat_templates, check_length
from ultrafuser.generation.examples import answer_ids, example_of_ids, tokens_of
from ultrafuser.templates import encode_prompt

__all__ = ["Scored", "likelihoods", "single_tokens", "token_likelihoods"]

Query = tuple[Sequence[Message], str, bool]
Prompts = list[list[int]]  # [specialist] -> ids


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-likelihood of one continuation: nats summed over its `tokens` tokens; the gate's mean weights over them."""

    logprob: float
    tokens: int
    weights: tuple[float, ...]


def likelihoods(
    model: Any,
    tokenizer: Any,
    queries: Sequence[Query],
    *,
    batch_size: int = 8,
    on_batch: Callable[[int], None] | None = None,
) -> list[Scored]:
    """Log-likelihoods of continuations, in the order of the queries.

    A query is a conversation that ends in a user message, the text that is to follow, and whether the end-of-sequence
    token after it counts. Nothing is ever cut: ContextFull names the query that is too long, before any work. A
    continuation without tokens has likelihood 1. `on_batch` hears how many queries each batch has answered.
    """
    _check_batch_size(batch_size)
    prompts = _encode_prompts(model, tokenizer, [messages for messages, _, _ in queries])
    responses = answer_ids(model, tokenizer, [text for _, text, _ in queries])
    responses = [ids if query[2] else ids[:-1] for ids, query in zip(responses, queries, strict=True)]
    examples = [_example(model, own, ids) for own, ids in zip(prompts, responses, strict=True)]
    _check_lengths(model, examples, "query")
    results = [Scored(0.0, 0, (0.0,) * model.n_specialists)] * len(queries)
    wanted = [i for i, ids in enumerate(responses) if ids]
    for rows in _alike(examples, wanted, batch_size):
        output = _forward(model, [examples[i] for i in rows])
        nats_B = -output.token_loss.double().sum(-1)
        sums_BN = output.gate_weights.double().sum(1)
        for i, nats, sums in zip(rows, nats_B.tolist(), sums_BN.tolist(), strict=True):
            count = len(responses[i])
            results[i] = Scored(nats, count, tuple(weight / count for weight in sums))
        if on_batch is not None:
            on_batch(len(rows))
    return results


def single_tokens(model: Any, tokenizer: Any, continuations: Sequence[str]) -> bool:
    """Whether every continuation is one token, so that one pass over the prompt reads them all."""
    return all(len(ids) == 2 for ids in answer_ids(model, tokenizer, continuations))


def token_likelihoods(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    continuations: Sequence[Sequence[str]],
    *,
    batch_size: int = 8,
    on_batch: Callable[[int], None] | None = None,
) -> list[list[Scored]]:
    """Log-likelihoods of one-token continuations (" Yes", " No") of each conversation, one pass per conversation.

    `likelihoods` with end=False is its slow reference. Raises ValueError for a continuation that is not one token.
    """
    _check_batch_size(batch_size)
    prompts = _encode_prompts(model, tokenizer, conversations)
    ids = [_one_token_each(model, tokenizer, texts) for texts in continuations]
    examples = [_example(model, own, [choices[0] if choices else 0]) for own, choices in zip(prompts, ids, strict=True)]
    _check_lengths(model, examples, "conversation")
    results: list[list[Scored]] = [[] for _ in examples]
    for rows in _alike(examples, range(len(examples)), batch_size):
        output = _forward(model, [examples[i] for i in rows], return_logits=True)
        logprobs_BV = output.logits[:, 0]
        if model.alignment is None:  # else they are log-probabilities, and no others are to be scaled up to one
            logprobs_BV = logprobs_BV.log_softmax(-1)
        for b, i in enumerate(rows):
            weights = tuple(output.gate_weights[b, 0].tolist())
            results[i] = [Scored(nats, 1, weights) for nats in logprobs_BV[b, ids[i]].tolist()]
        if on_batch is not None:
            on_batch(len(rows))
    return results


@torch.no_grad()
def _forward(model: Any, examples: Sequence[Example], **options: Any) -> Any:
    """The training form: logits at response positions only, and a chunk of them at a time."""
    batch = ResponseCollator(model.config.pad_token_id)(examples)
    batch.pop("category")
    return model(**{name: tensor.to(model.device) for name, tensor in batch.items()}, **options)


def _encode_prompts(model: Any, tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[Prompts]:
    """Each specialist's prompt of every conversation; a conversation that comes again is encoded once."""
    templates = chat_templates(model)
    known: dict[tuple[tuple[tuple[str, str], ...], ...], Prompts] = {}
    found = []
    for messages in conversations:
        key = tuple(tuple(sorted(message.items())) for message in messages)
        if key not in known:
            known[key] = encode_prompt(messages, templates, tokens_of(model, tokenizer))
        found.append(known[key])
    return found


def _example(model: Any, prompts: Prompts, response: Sequence[int]) -> Example:
    return example_of_ids(model, [[ids] for ids in prompts], [response])


def _one_token_each(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[int]:
    encoded = answer_ids(model, tokenizer, texts)
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) != 2:
            raise ValueError(f"continuations: {text!r} is {len(ids) - 1} tokens, not one; use `likelihoods` for it")
    return [ids[0] for ids in encoded]


def _check_lengths(model: Any, examples: Sequence[Example], kind: str) -> None:
    for number, example in enumerate(examples, start=1):
        try:
            check_length(model, example.length)
        except ContextFull as error:
            raise ContextFull(f"{kind} {number} of {len(examples)}: {error}") from None


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is too small; at least 1")


def _alike(examples: Sequence[Example], wanted: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first: what does not fit in memory shows at once."""
    order = sorted(wanted, key=lambda i: -examples[i].length)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
