"""Streaming generation from a fused model, token by token with the gate's weights, singly and in batches.

The loop runs inside `model.generate` (its documented `custom_generate` hook), so logits processors, warpers, stopping
rules and the cache are Transformers' own, applied after fusion; greedy ids equal those of a plain `model.generate`.

Shapes: B batch, T time, N specialists, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ultrafuser.generation.sampling import Sampling
from ultrafuser.generation.text import IncrementalText
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
class TokenEvent:
    """One token of an answer and who spoke it.

    `text` is what the token adds to the answer ("" for the first bytes of an unfinished character and for special
    tokens); `weights` are the gate's, one per specialist, summing to one; `logprob` (nats) is the token's under the
    fused distribution itself, before temperature, top-p and top-k; `specialist_logprobs` the same under each
    specialist alone (filled by `score`).
    """

    token_id: int
    text: str
    weights: tuple[float, ...]
    logprob: float
    specialist_logprobs: tuple[float, ...] = ()


@dataclass
class Generation:
    """One finished answer; `finished` is False when a length limit cut it off; `seconds` its whole batch took."""

    events: list[TokenEvent] = field(default_factory=list)
    finished: bool = False
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(event.text for event in self.events)


@dataclass(frozen=True)
class _Step:
    """One decoding step of a batch of B rows; `running` before the step, `last` = the row ends with it."""

    token_ids: list[int]
    weights: list[list[float]]
    logprobs: list[float]
    running: list[bool]
    last: list[bool]


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
        decoder = IncrementalText(tokenizer)
        for step in steps:
            yield _event(step, 0, decoder)

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
        decoders = [IncrementalText(tokenizer) for _ in batch]
        answers = [Generation() for _ in batch]
        for step in _steps(model, tokenizer, batch, sampling, gate_weights):
            for row, answer in enumerate(answers):
                if step.running[row]:
                    answer.events.append(_event(step, row, decoders[row]))
        for answer in answers:
            answer.finished = answer.events[-1].token_id in stops
            answer.seconds = time.perf_counter() - started
        yield from answers


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every end-of-sequence id of the model, and the tokenizer's, which ends each answer in training."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return [i for i in dict.fromkeys([*ids, tokenizer.eos_token_id]) if i is not None]


def _event(step: _Step, row: int, decoder: IncrementalText) -> TokenEvent:
    text = decoder.push(step.token_ids[row], last=step.last[row])
    return TokenEvent(step.token_ids[row], text, tuple(step.weights[row]), step.logprobs[row])


def _prompts(model: Any, tokenizer: Any, messages: Sequence[Message]) -> list[list[int]]:
    """Each specialist's own prompt as ids; ValueError where there is no room for an answer after it."""
    prompts = encode_prompt(messages, chat_templates(model), tokenizer)
    check_length(model, 1 + max(map(len, prompts)))
    return prompts


def _steps(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Sequence[int]]],
    sampling: Sampling,
    gate_weights: Weights | None,
) -> Iterator[_Step]:
    """Start a decoding loop; prompts as [row][specialist][ids]."""
    room = check_length(model, max(len(ids) for prompt in prompts for ids in prompt))
    inputs = model.prepare_prompts(prompts)
    if gate_weights is not None:
        weights_N = torch.as_tensor(gate_weights, dtype=torch.float32, device=model.device)
        inputs["gate_weights"] = weights_N.expand(len(prompts), -1)
    if sampling.seed is not None:
        inputs["generator"] = torch.Generator(model.device).manual_seed(sampling.seed)
    stops = stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0] if stops else 0
    steps: Iterator[_Step] = model.generate(
        **inputs,
        **sampling.arguments(room),
        eos_token_id=stops or None,
        pad_token_id=pad,
        use_cache=True,
        custom_generate=_decode,
    )
    return steps


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
    **model_kwargs: Any,
) -> Iterator[_Step]:
    """The loop of Transformers' `_sample`, handing out each step with its gate weights."""
    pad_id = int(generation_config._pad_token_tensor)
    running_B = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    first = True
    while running_B.any():
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=None if first else 1, is_first_iteration=first, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=False)
        first = False
        logits_BV = outputs.logits[:, -1].to(torch.float32)
        scores_BV = logits_processor(input_ids, logits_BV.clone())
        if generation_config.do_sample:
            next_B = torch.multinomial(scores_BV.softmax(-1), 1, generator=generator).squeeze(1)
        else:
            next_B = scores_BV.argmax(-1)
        next_B = torch.where(running_B, next_B, pad_id)
        input_ids = torch.cat([input_ids, next_B[:, None]], dim=-1)
        left_B = running_B & ~stopping_criteria(input_ids, None)
        logprobs_B = logits_BV.log_softmax(-1).gather(1, next_B[:, None]).squeeze(1)
        yield _Step(
            token_ids=next_B.tolist(),
            weights=outputs.gate_weights[:, -1].tolist(),
            logprobs=logprobs_B.tolist(),
            running=running_B.tolist(),
            last=(~left_B).tolist(),
        )
        running_B = left_B
