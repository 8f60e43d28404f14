"""A model behind an OpenAI-compatible endpoint, as the model under test."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ultrafuser.endpoint import ChatClient, ChatRequest, EndpointError, RejectedError, Reply, TokenLogprob
from ultrafuser.evaluation.benchmark import Answer, Item, Likelihood, Message, Needs, Query
from ultrafuser.evaluation.subject import Asking

__all__ = ["EndpointSubject"]

logger = logging.getLogger(__name__)

TOP_LOGPROBS = (20, 5)  # the most that OpenAI and vLLM give now, and gave before
REFUSALS = (400, 422, 500, 501)  # how servers say that they have no log-probabilities, or not so many
_PROBE: Message = {"role": "user", "content": "Is ice frozen water? Answer with one word, Yes or No."}


@dataclass
class _Talk:
    """One item's conversation as it grows."""

    item: Item
    messages: list[Message] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    prompt: str = ""
    tokens: int = 0
    finished: bool = True
    seconds: float = 0.0

    def request(self, asking: Asking) -> ChatRequest:
        """Say the next user turn, and ask for an answer to it."""
        self.messages.append({"role": "user", "content": self.item.turns[len(self.texts)]})
        self.prompt = _readable(self.messages)
        return ChatRequest(
            tuple(self.messages),
            max_tokens=asking.max_new_tokens,
            temperature=asking.temperature,
            top_p=asking.top_p,
            seed=asking.seed if asking.temperature > 0 else None,
        )

    def take(self, reply: Reply | RejectedError, seconds: float) -> bool:
        """Add a reply; True when that ends the conversation, as a refused request does."""
        self.seconds += seconds
        if isinstance(reply, RejectedError):
            self.texts += [""] * (len(self.item.turns) - len(self.texts))
            self.finished = False
            return True
        self.texts.append(reply.text)
        self.messages.append({"role": "assistant", "content": reply.text})
        self.tokens += reply.completion_tokens
        self.finished &= reply.finished
        return len(self.texts) == len(self.item.turns)


class EndpointSubject:
    """Asks a client. There is no gate, so there are no gate weights, and one name stands for the specialists.

    `offers` one-word answers (CHOICES) too where the endpoint gives `top_logprobs`, which one request at the start
    finds out; an address, key or model that is wrong comes to light there. An item that the endpoint refuses (a prompt
    too long for its context) gets an empty answer that is not finished. `name` None is the model's name. Items at a
    time are the smaller of the runner's batch and the client's concurrency.
    """

    def __init__(self, client: ChatClient, *, name: str | None = None) -> None:
        self._client = client
        self.name = name or client.model
        self.specialists = [client.model]
        self._logprobs = _most_logprobs(client)
        self.offers = frozenset({Needs.ANSWERS, Needs.CHOICES} if self._logprobs else {Needs.ANSWERS})

    def describe(self) -> dict[str, Any]:
        """Address and model."""
        return {"kind": "endpoint", "specialists": self.specialists, "gate": None, **self._client.describe()}

    def length(self, item: Item) -> int:
        """Characters."""
        queries = sum(len(message["content"]) for query in item.queries for message in query.messages)
        return sum(map(len, item.turns)) + queries

    def answer(self, items: Sequence[Item], asking: Asking) -> Iterator[tuple[int, Answer]]:
        """Answers with the index of their item, as they come.

        "seconds" is the time since the answer before, so that an answer from the cache takes none.
        """
        yield from self._converse({number: item for number, item in enumerate(items) if item.turns}, asking)
        yield from self._choose({number: item for number, item in enumerate(items) if not item.turns})

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _converse(self, items: dict[int, Item], asking: Asking) -> Iterator[tuple[int, Answer]]:
        """The first turn of all conversations, then the second of those that have one, and so on."""
        talks = {number: _Talk(item) for number, item in items.items()}
        while talks:
            numbers = list(talks)
            for place, reply, seconds in self._replies([talks[number].request(asking) for number in numbers]):
                talk = talks[numbers[place]]
                if talk.take(reply, seconds):
                    if isinstance(reply, RejectedError):
                        logger.warning("item %s: %s; its answer is empty", talk.item.id, reply)
                    yield numbers[place], self._spoken(talks.pop(numbers[place]))

    def _spoken(self, talk: _Talk) -> Answer:
        return Answer(
            texts=tuple(talk.texts),
            prompts={self.specialists[0]: talk.prompt},
            tokens=talk.tokens,
            finished=talk.finished,
            seconds=talk.seconds,
        )

    def _choose(self, items: dict[int, Item]) -> Iterator[tuple[int, Answer]]:
        """Log-probabilities of one-word continuations, from the first token's alternatives."""
        asked = [(number, place) for number, item in items.items() for place in range(len(item.queries))]
        queries = [items[number].queries[place] for number, place in asked]
        requests = [ChatRequest(query.messages, max_tokens=1, top_logprobs=self._logprobs) for query in queries]
        rows: dict[int, dict[int, tuple[Likelihood, ...] | None]] = {number: {} for number in items}
        spent = dict.fromkeys(items, 0.0)
        for index, reply, seconds in self._replies(requests):
            number, place = asked[index]
            rows[number][place] = _likelihoods(queries[index], reply)
            spent[number] += seconds
            if len(rows[number]) == len(items[number].queries):
                yield number, self._chosen(items[number], rows.pop(number), spent[number])

    def _chosen(self, item: Item, rows: dict[int, tuple[Likelihood, ...] | None], seconds: float) -> Answer:
        """All queries' likelihoods in their order; none at all where one of them was not answered."""
        found = [rows[place] for place in sorted(rows)]
        complete = tuple(row for row in found if row is not None)
        finished = len(complete) == len(found)
        prompts = {self.specialists[0]: _readable(item.queries[0].messages)}
        return Answer(likelihoods=complete if finished else (), prompts=prompts, finished=finished, seconds=seconds)

    def _replies(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, Reply | RejectedError, float]]:
        """The client's replies as they come, each with the seconds since the one before."""
        last = time.monotonic()
        for place, reply in self._client.map(requests):
            now = time.monotonic()
            yield place, reply, now - last
            last = time.monotonic()


def _most_logprobs(client: ChatClient) -> int:
    """How many alternatives to a token the endpoint tells; 0 where it tells none or refuses to."""
    for wanted in TOP_LOGPROBS:
        try:
            reply = client.ask(ChatRequest((_PROBE,), max_tokens=1, top_logprobs=wanted))
        except EndpointError as error:
            if error.status not in REFUSALS:
                raise
        else:
            return wanted if reply.top_logprobs else 0
    client.ask(ChatRequest((_PROBE,), max_tokens=16))
    return 0


def _readable(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _likelihoods(query: Query, reply: Reply | RejectedError) -> tuple[Likelihood, ...] | None:
    """One per continuation, None where the endpoint told nothing.

    Tokens that are the continuation but for space around it count together; a continuation that is not among the
    alternatives has log-probability -inf.
    """
    if isinstance(reply, RejectedError) or not reply.top_logprobs:
        return None
    first = reply.top_logprobs[0]
    return tuple(Likelihood(_together(first, continuation.strip()), 1) for continuation in query.continuations)


def _together(alternatives: Sequence[TokenLogprob], word: str) -> float:
    total = math.fsum(math.exp(one.logprob) for one in alternatives if one.token.strip() == word)
    return math.log(total) if total > 0 else -math.inf
