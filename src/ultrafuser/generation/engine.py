"""Streaming generation from a fused model, token by token with the gate's weights, singly and in batches.

The loop runs inside `model.generate` (its documented `custom_generate` hook), so logits processors, warpers, stopping
rules and the cache are Transformers' own, applied after fusion; greedy ids equal those of a plain `model.generate`.
Where the specialists' tokenizers differ, `crossing` decodes in its place.

Shapes: B batch, T time, N specialists, V vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ultrafuser.generation import crossing
from ultrafuser.generation.events import Generation, TokenEvent
from ultrafuser.generation.examples import tokens_of
from ultrafuser.generation.sampling import Sampling
from ultrafuser.generation.text import IncrementalBytes, IncrementalText
from ultrafuser.templates import encode_prompt

__all__ = [
    "ContextFull",
    "Generation",
    "TokenEvent",
    "chat_templates",
    "check_length",
    "generate_batch",
    "stop_ids",
    "stream",
]

Message = dict[str, str]
Weights = Tensor | Sequence[float]


class ContextFull(ValueError):  # noqa: N818 - names a state, as TooLong does
    """A conversation longer than the specialists can read."""


@dataclass(frozen=True, slots=True)
class _Token:
    """What one row of a batch got in one decoding step; `last` = its answer ends with it."""

    row: int
    token_id: int
    weights: Sequence[float]
    logprob: float
    last: bool
    took_part: tuple[bool, ...] = ()
    retokenised: tuple[bool, ...] = ()


def stream(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int | None = None,
    gate_weights: Weights | None = None,
) -> Iterator[TokenEvent]:
    """The answer to a conversation that ends in a user message: one event per token, as it is made.

    Every specialist reads the history in its own template. `gate_weights` (N,) forces the weights. The stop token is
    the last event, with text "". Bad values raise ValueError at the call, not at the first token.
    """
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    steps = _steps(model, tokenizer, [_prompts(model, tokenizer, messages)], sampling, gate_weights)

    def events() -> Iterator[TokenEvent]:
        decoder = text_decoder(model, tokenizer)
        for step in steps:
            for token in step:
                yield _event(token, decoder)

    return events()


def generate_batch(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    *,
    batch_size: int = 8,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int | None = None,
    gate_weights: Weights | None = None,
) -> Iterator[Generation]:
    """Answers in the order of the conversations, `batch_size` at a time; prompts may differ in length.

    With a seed, batch k samples with seed + k, so the same call gives the same answers. All conversations are looked
    at before the first is answered: ValueError says which one cannot be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is too small; at least 1")
    prompts = []
    for number, messages in enumerate(conversations, start=1):
        try:
            prompts.append(_prompts(model, tokenizer, messages))
        except ValueError as error:
            raise type(error)(f"conversation {number} of {len(conversations)}: {error}") from error
    stops = set(stop_ids(model, tokenizer))
    for number, start in enumerate(range(0, len(prompts), batch_size)):
        batch = prompts[start : start + batch_size]
        sampling = Sampling(max_new_tokens, temperature, top_p, top_k, None if seed is None else seed + number)
        started = time.perf_counter()
        decoders = [text_decoder(model, tokenizer) for _ in batch]
        answers = [Generation() for _ in batch]
        for step in _steps(model, tokenizer, batch, sampling, gate_weights):
            for token in step:
                answers[token.row].events.append(_event(token, decoders[token.row]))
        for answer in answers:
            answer.finished = answer.events[-1].token_id in stops
            answer.seconds = time.perf_counter() - started
        yield from answers


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every end-of-sequence id of the model, and the tokenizer's, which ends each answer in training."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return [i for i in dict.fromkeys([*ids, tokenizer.eos_token_id]) if i is not None]


def text_decoder(model: Any, tokenizer: Any) -> IncrementalText | IncrementalBytes:
    """What turns an answer's tokens into text, one by one."""
    return IncrementalText(tokenizer) if model.alignment is None else IncrementalBytes(model.alignment.tables[0])


def _event(token: _Token, decoder: IncrementalText | IncrementalBytes) -> TokenEvent:
    text = decoder.push(token.token_id, last=token.last)
    return TokenEvent(
        token.token_id,
        text,
        tuple(token.weights),
        token.logprob,
        took_part=token.took_part,
        retokenised=token.retokenised,
    )


def _prompts(model: Any, tokenizer: Any, messages: Sequence[Message]) -> list[list[int]]:
    """Each specialist's own prompt as ids; ValueError where there is no room for an answer after it."""
    prompts = encode_prompt(messages, chat_templates(model), tokens_of(model, tokenizer))
    check_length(model, 1 + max(map(len, prompts)))
    return prompts


def _steps(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Sequence[int]]],
    sampling: Sampling,
    gate_weights: Weights | None,
) -> Iterator[list[_Token]]:
    """Start a decoding loop; prompts as [row][specialist][ids]. Each row may fill the context that is left to it."""
    if model.alignment is not None:
        return _crossing_steps(model, prompts, sampling, gate_weights)
    rooms = [check_length(model, max(map(len, prompt))) for prompt in prompts]
    inputs = model.prepare_prompts(prompts)
    if gate_weights is not None:
        weights_N = torch.as_tensor(gate_weights, dtype=torch.float32, device=model.device)
        inputs["gate_weights"] = weights_N.expand(len(prompts), -1)
    if sampling.seed is not None:
        inputs["generator"] = torch.Generator(model.device).manual_seed(sampling.seed)
    stops = stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0] if stops else 0
    steps: Iterator[list[_Token]] = model.generate(
        **inputs,
        **sampling.arguments(max(rooms)),
        rooms=rooms,
        eos_token_id=stops or None,
        pad_token_id=pad,
        use_cache=True,
        custom_generate=_decode,
    )
    return steps


def _crossing_steps(
    model: Any, prompts: Sequence[Sequence[Sequence[int]]], sampling: Sampling, gate_weights: Weights | None
) -> Iterator[list[_Token]]:
    """`_steps` where tokenizers differ: a string may be several canonical tokens, the first of which carries it."""
    crossing.check_generation_config(model.generation_config)
    forced_BN = None
    if gate_weights is not None:
        forced_BN = crossing.row_weights(gate_weights, len(prompts), model)
    steps = crossing.decode(
        model, prompts, sampling, limit=model.config.max_position_embeddings, gate_weights=forced_BN
    )

    def tokens() -> Iterator[list[_Token]]:
        for step in steps:
            yield [token for chosen in step for token in _canonical_tokens(chosen)]

    return tokens()


def _canonical_tokens(chosen: crossing.Chosen) -> Iterator[_Token]:
    final = len(chosen.ids) - 1
    for k, token_id in enumerate(chosen.ids):
        logprob = chosen.logprob if k == 0 else 0.0
        marks = (chosen.took_part, chosen.retokenised) if k == 0 else ()
        yield _Token(chosen.row, token_id, chosen.weights, logprob, chosen.last and k == final, *marks)


def chat_templates(model: Any) -> list[str]:
    """Jinja source of each specialist's template. Raises ValueError naming a specialist that has none."""
    for name, source in zip(model.config.specialist_names, model.config.templates, strict=True):
        if not source:
            raise ValueError(
                f"templates.{name}: specialist {name!r} has no chat template; give it one when it is fused "
                "(specialists.NAME.template in the recipe), or use a text without a conversation"
            )
    return list(model.config.templates)


def check_length(model: Any, length: int) -> int:
    """How many tokens are left after a sequence of `length`; ContextFull where it is longer than a specialist reads."""
    limit: int = model.config.max_position_embeddings
    if length > limit:
        raise ContextFull(
            f"messages: the conversation takes {length} tokens and the specialists read {limit} at most; "
            "shorten it or start a new one"
        )
    return limit - length


@torch.no_grad()
def _decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    generator: torch.Generator | None = None,
    *,
    rooms: Sequence[int],
    **model_kwargs: Any,
) -> Iterator[list[_Token]]:
    """The loop of Transformers' `_sample`, handing out each step's tokens with their gate weights.

    Rows whose answer has ended are taken out as soon as they are half of the batch, so that a few long answers do not
    cost as much as if all were long.
    """
    pad_id = int(generation_config._pad_token_tensor)
    rows = torch.arange(len(input_ids), device=input_ids.device)
    rooms_B = torch.tensor(rooms, device=input_ids.device)
    running_B = torch.ones_like(rows, dtype=torch.bool)
    first = True
    for made in itertools.count(1):
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=None if first else 1, is_first_iteration=first, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=False)
        first = False
        logits_BV = outputs.logits[:, -1].to(torch.float32)
        next_B = _choose(logits_processor(input_ids, logits_BV.clone()), generation_config.do_sample, generator)
        next_B = torch.where(running_B, next_B, pad_id)
        input_ids = torch.cat([input_ids, next_B[:, None]], dim=-1)
        left_B = running_B & ~stopping_criteria(input_ids, None) & (made < rooms_B)
        logprobs_B = logits_BV.log_softmax(-1).gather(1, next_B[:, None]).squeeze(1)
        weights_BN = outputs.gate_weights[:, -1]
        columns = (rows, next_B, weights_BN, logprobs_B, ~left_B)
        yield [_Token(*token) for token in zip(*(column[running_B].tolist() for column in columns), strict=True)]
        running_B = left_B
        if not left_B.any():
            return
        if 2 * int(left_B.sum()) <= len(rows):
            input_ids, rows, rooms_B, running_B = (own[left_B] for own in (input_ids, rows, rooms_B, running_B))
            _keep_rows(left_B, model_kwargs)


def _choose(scores_BV: Tensor, sample: bool, generator: torch.Generator | None) -> Tensor:
    if not sample:
        return scores_BV.argmax(-1)
    return torch.multinomial(scores_BV.softmax(-1), 1, generator=generator).squeeze(1)


def _keep_rows(keep_B: Tensor, model_kwargs: dict[str, Any]) -> None:
    """Take the other rows out of all that the decoding loop carries along."""
    for name in ("attention_mask", "position_ids", "prompt_ids", "prompt_mask", "gate_weights"):
        if model_kwargs.get(name) is not None:
            model_kwargs[name] = model_kwargs[name][keep_B]
    model_kwargs["past_key_values"].batch_select_indices(keep_B.nonzero().squeeze(1))
