"""Held-out response loss: how well a model predicts given answers, per domain, in nats per token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING

from ultrafuser.evaluation.benchmark import Answer, Benchmark, Item, Needs, Query, Record, Source, Verdict
from ultrafuser.evaluation.benchmarks.problems import identities

if TYPE_CHECKING:
    from ultrafuser.evaluation.tools import Tools

__all__ = ["ResponseLoss"]


class ResponseLoss(Benchmark):
    """Mean loss over the tokens of the assistant's messages, each with its end-of-sequence token, as in training.

    Records are conversations in any form that training reads (`ultrafuser.data.FORMATS`) with a field `domain` (or
    `category`). An item weighs its tokens, so the mean of a domain is that over all its tokens: the figure of
    `ultrafuser.training.evaluate_response_loss`. Losses of models with different tokenizers are not comparable.
    """

    name = "loss"
    title = "Response loss"
    domain = "text"
    metric = "nats_per_token"
    source = Source(file="loss", required=())  # a folder of conversations, one file per domain
    reference = "Ding et al., ACL 2025, the loss of training and the table of losses by domain"
    needs = Needs.LIKELIHOODS
    higher_is_better = False

    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """One query per assistant message, with all that stands before it. ValueError names record, field and fix."""
        records = list(records)
        return [
            _item(identity, record) for identity, record in zip(identities(self.name, records), records, strict=True)
        ]

    def grade(self, pairs: Sequence[tuple[Item, Answer]], tools: Tools) -> list[Verdict]:
        """Loss and number of tokens. An item without all its likelihoods weighs nothing, and its note says so."""
        return [_verdict(item, answer) for item, answer in pairs]


def _item(identity: str, record: Record) -> Item:
    from ultrafuser.data import conversation_from_record

    domain = record.get("domain", record.get("category"))
    if not isinstance(domain, str) or not domain:
        raise ValueError(f"loss: record {identity}: domain: {domain!r} is not a name; give each record a domain")
    try:
        messages = conversation_from_record(record, domain, identity).messages
    except ValueError as error:
        raise ValueError(f"loss: record {identity}: {error}") from None
    queries = [
        Query(tuple(messages[:place]), (message["content"],), end=True)
        for place, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    return Item(id=identity, record=record, queries=tuple(queries), group=domain)


def _verdict(item: Item, answer: Answer) -> Verdict:
    given = [found[0] for found in answer.likelihoods if found]
    tokens = sum(one.tokens for one in given)
    if len(given) != len(item.queries) or tokens < 1:
        note = f"left out: {len(given)} likelihoods for {len(item.queries)} answers"
        return Verdict(scores={"nats_per_token": inf}, weight=0.0, note=note)
    loss = -sum(one.logprob for one in given) / tokens
    note = "" if isfinite(loss) else "an answer that the model holds to be impossible"
    return Verdict(scores={"nats_per_token": loss}, weight=float(tokens), note=note)
