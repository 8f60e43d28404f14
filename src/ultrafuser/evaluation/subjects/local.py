"""A model in memory under test: a fused one, or any other as a fused model of one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch

from ultrafuser.evaluation.benchmark import Answer, Item, Likelihood, Message, Needs, Query
from ultrafuser.evaluation.subject import Asking
from ultrafuser.generation import generate_batch
from ultrafuser.generation.engine import ContextFull, Generation, chat_templates, check_length
from ultrafuser.generation.events import crossings
from ultrafuser.generation.examples import answer_ids, example_of_ids, tokens_of
from ultrafuser.generation.likelihood import Scored, likelihoods, single_tokens, token_likelihoods
from ultrafuser.generation.packing import pack
from ultrafuser.templates import encode_prompt, prefixes, special_token_texts

__all__ = ["LocalSubject"]

Result = TypeVar("Result")
SAMPLED = 4096  # elements of each tensor that the fingerprint looks at


@dataclass
class _Dialogue:
    """One item's turns on their way: what has been said, and what the answers so far took."""

    item: Item
    messages: list[Message] = field(default_factory=list)
    answers: list[Generation] = field(default_factory=list)
    prompt: tuple[Message, ...] = ()
    seconds: float = 0.0
    full: bool = False  # the context: nothing more can be answered

    def ask(self) -> None:
        """Add the next user turn."""
        self.messages.append({"role": "user", "content": self.item.turns[len(self.answers)]})
        self.prompt = tuple(self.messages)

    def take(self, answer: Generation, seconds: float) -> None:
        """Add the model's answer to it."""
        self.answers.append(answer)
        self.seconds += seconds
        self.messages.append({"role": "assistant", "content": answer.text})


class LocalSubject:
    """An `UltraFuserForCausalLM` of one or more specialists as a `Subject`; `batch_size` is for likelihoods.

    An item that does not fit the context gets an empty answer (no likelihoods) that is not `finished`, so that a long
    run does not end there; the others of its batch are answered. A batch that a GPU has no memory for is halved. On a
    CPU the model's linear layers get packed copies, see `generation.packing`.
    """

    offers = frozenset(Needs)

    def __init__(self, model: Any, tokenizer: Any, *, name: str, batch_size: int = 8) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.specialists: list[str] = list(model.config.specialist_names)
        chat_templates(model)  # a specialist without one is named now, not after the benchmark is read
        pack(model)

    def describe(self) -> dict[str, Any]:
        """Kind, specialists, gate, number format, device, size, and a fingerprint of weights and templates."""
        config = self.model.config
        several = len(self.specialists) > 1
        return {
            "kind": "fused" if several else "model",
            "specialists": self.specialists,
            "gate": config.gate["type"] if several else None,
            "gate_trained": self.model.gate_is_trained if several else None,
            "fusion": dict(config.fusion) if several else None,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "fingerprint": self._fingerprint,
        }

    def length(self, item: Item) -> int:
        """Tokens of the longest specialist's prompt, with the continuation where one is given."""
        if item.turns:
            return self._tokens([{"role": "user", "content": "\n".join(item.turns)}])
        return max(map(self._query_tokens, item.queries), default=0)

    def answer(self, items: Sequence[Item], asking: Asking) -> Iterator[tuple[int, Answer]]:
        """All of `items` as one batch; turn by turn, each turn seeing the model's own earlier answers."""
        asked = [index for index, item in enumerate(items) if item.queries]
        spoken = [index for index, item in enumerate(items) if not item.queries]
        for indices, make in ((spoken, lambda some: self._converse(some, asking)), (asked, self._judge)):
            if indices:
                yield from zip(indices, make([items[index] for index in indices]), strict=True)

    # ---- written answers ----

    def _converse(self, items: Sequence[Item], asking: Asking) -> list[Answer]:
        dialogues = [_Dialogue(item) for item in items]
        for turn in range(max(len(item.turns) for item in items)):
            waiting = [one for one in dialogues if len(one.item.turns) > turn and not one.full]
            for one in waiting:
                one.ask()
            fitting = [one for one in waiting if self._fits(one)]
            if fitting:
                self._reply(fitting, asking)
        return [self._spoken(one) for one in dialogues]

    def _fits(self, one: _Dialogue) -> bool:
        """Whether there is room for an answer; how much of it each row of a batch may use by itself."""
        try:
            check_length(self.model, self._tokens(one.messages) + 1)
        except ContextFull:
            one.full = True
        return not one.full

    def _reply(self, batch: Sequence[_Dialogue], asking: Asking) -> None:
        def answers(batch_size: int) -> list[Generation]:
            return list(
                generate_batch(
                    self.model,
                    self.tokenizer,
                    [one.messages for one in batch],
                    batch_size=batch_size,
                    max_new_tokens=asking.max_new_tokens,
                    temperature=asking.temperature,
                    top_p=asking.top_p,
                    seed=asking.seed,
                )
            )

        started = time.perf_counter()
        found = _with_less_memory(answers, len(batch))
        share = (time.perf_counter() - started) / len(batch)
        for one, answer in zip(batch, found, strict=True):
            one.take(answer, share)

    def _spoken(self, one: _Dialogue) -> Answer:
        events = [event for answer in one.answers for event in answer.events]
        missing = len(one.item.turns) - len(one.answers)
        met = crossings(events)
        return Answer(
            texts=(*(answer.text for answer in one.answers), *[""] * missing),
            prompts=self._texts(one.prompt),
            gate_weights=self._mean([(1, event.weights) for event in events]),
            tokenizers=None if met is None else met.as_dict(self.specialists),
            tokens=len(events),
            finished=not missing and all(answer.finished for answer in one.answers),
            seconds=one.seconds,
        )

    # ---- likelihoods ----

    def _judge(self, items: Sequence[Item]) -> list[Answer]:
        started = time.perf_counter()
        fits = [self._queries_fit(item) for item in items]
        queries = [query for item, fit in zip(items, fits, strict=True) if fit for query in item.queries]
        found = iter(_with_less_memory(lambda size: self._scores(queries, size), self.batch_size))
        share = (time.perf_counter() - started) / len(items)
        return [
            self._judged(item, [next(found) for _ in item.queries] if fit else [], share)
            for item, fit in zip(items, fits, strict=True)
        ]

    def _queries_fit(self, item: Item) -> bool:
        try:
            check_length(self.model, self.length(item))
        except ContextFull:
            return False
        return True

    def _scores(self, queries: Sequence[Query], batch_size: int) -> list[list[Scored]]:
        """Per query, per continuation; one-word choices are read off one pass over their prompt."""
        results: list[list[Scored]] = [[] for _ in queries]
        choices = [i for i, query in enumerate(queries) if self._one_word_choices(query)]
        found = token_likelihoods(
            self.model,
            self.tokenizer,
            [queries[i].messages for i in choices],
            [queries[i].continuations for i in choices],
            batch_size=batch_size,
        )
        for i, scores in zip(choices, found, strict=True):
            results[i] = scores
        places = [i for i, query in enumerate(queries) if not results[i] for _ in query.continuations]
        flat = [
            (queries[i].messages, text, queries[i].end)
            for i in dict.fromkeys(places)
            for text in queries[i].continuations
        ]
        for i, score in zip(places, likelihoods(self.model, self.tokenizer, flat, batch_size=batch_size), strict=True):
            results[i].append(score)
        return results

    def _one_word_choices(self, query: Query) -> bool:
        several = not query.end and len(query.continuations) > 1
        return several and single_tokens(self.model, self.tokenizer, query.continuations)

    def _judged(self, item: Item, scores: Sequence[Sequence[Scored]], seconds: float) -> Answer:
        flat = [score for query in scores for score in query]
        return Answer(
            likelihoods=tuple(tuple(Likelihood(one.logprob, one.tokens) for one in query) for query in scores),
            prompts=self._texts(item.queries[0].messages),
            gate_weights=self._mean([(score.tokens, score.weights) for score in flat]),
            tokens=sum(score.tokens for score in flat),
            finished=bool(scores),
            seconds=seconds,
        )

    # ---- what both need ----

    def _query_tokens(self, query: Query) -> int:
        prompts = [[ids] for ids in self._prompts(query.messages)]
        answers = answer_ids(self.model, self.tokenizer, query.continuations) or [[]]
        return max(example_of_ids(self.model, prompts, [ids]).length for ids in answers)

    def _tokens(self, messages: Sequence[Message]) -> int:
        return max(map(len, self._prompts(messages)))

    def _prompts(self, messages: Sequence[Message]) -> list[list[int]]:
        return encode_prompt(messages, chat_templates(self.model), tokens_of(self.model, self.tokenizer))

    def _texts(self, messages: Sequence[Message]) -> dict[str, str]:
        """What each specialist reads, as its template writes it."""
        tokenizers = self.model.tokenizers or [self.tokenizer] * len(self.specialists)
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        found = {}
        for name, source, own in zip(self.specialists, chat_templates(self.model), tokenizers, strict=True):
            special = special_token_texts(own)
            answers = [text + special["eos_token"] for text in said]
            pieces = prefixes(source, messages, special_tokens=special)
            found[name] = "".join(piece + answer for piece, answer in zip(pieces, [*answers, ""], strict=True))
        return found

    def _mean(self, rows: Sequence[tuple[int, Sequence[float]]]) -> dict[str, float] | None:
        """Mean weight of each specialist over rows of (tokens, weights); None where there is no gate or no token."""
        total = sum(tokens for tokens, _ in rows)
        if len(self.specialists) < 2 or not total:
            return None
        return {
            name: sum(tokens * weights[j] for tokens, weights in rows) / total
            for j, name in enumerate(self.specialists)
        }

    @cached_property
    def _fingerprint(self) -> str:
        """SHA-256 over templates and evenly spaced elements of every tensor: another training gives another one."""
        digest = hashlib.sha256("\0".join(self.model.config.templates).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            flat = tensor.detach().flatten()
            some = flat[:: max(1, len(flat) // SAMPLED)].contiguous().cpu()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(some.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _with_less_memory(work: Callable[[int], Result], batch_size: int) -> Result:
    """`work(batch_size)`, with half of it each time that the GPU runs out of memory."""
    while True:
        try:
            return work(batch_size)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        batch_size //= 2  # outside of the handler: what it holds of the failed attempt is let go first
        torch.cuda.empty_cache()
