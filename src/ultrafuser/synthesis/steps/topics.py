"""Meta-topics of a domain, then sub-topics of each meta-topic, each over several turns that see what is there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ultrafuser.endpoint import Reply
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.parsing import read_objects, read_texts
from ultrafuser.synthesis.records import Ask, Reject
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps.step import Pool, Step, folded, list_request, unusable

__all__ = ["META_TOPICS", "SUB_TOPICS", "batches", "missing_rounds"]

LONGEST_NAME = 80  # characters
SPARE_ROUNDS = 2  # for what repeats what is there, or comes short
SUB_FIELDS = ("name", "relevance", "use_case")


def batches(count: int, batch: int) -> int:
    """How many requests give `count` items."""
    return math.ceil(count / batch)


def missing_rounds(count: int, batch: int) -> int:
    """Rounds of a step that asks for `count` items, `batch` at a time, each time for those that are missing."""
    return batches(count, batch) + SPARE_ROUNDS


def _meta_requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
    counts = spec.counts_of(domain.name)
    known = [record.data["name"] for record in pool.records("meta_topics", domain.name)]
    count = min(counts.batch, counts.meta_topics - len(known))
    if count > 0:
        prompt = domain.prompt("meta_topics", count=count, known=known)
        yield Ask((), list_request(spec, prompt), {"count": count, "known": known})


def _meta_accept(reply: Reply, ask: Ask) -> list[dict[str, Any]] | Reject:
    names = [text.splitlines()[0].strip(" .") for text in read_texts(reply.text)]
    made = [{"name": name} for name in _new(names, ask) if 0 < len(name) <= LONGEST_NAME]
    return _enough(reply, made, ask, "no list of topics")


def _sub_requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
    counts = spec.counts_of(domain.name)
    for topic in pool.records("meta_topics", domain.name):
        there = pool.children(topic.id, "sub_topics") if round_ else ()
        known = [record.data["name"] for record in there]
        count = min(counts.batch, counts.sub_topics - len(known))
        if count > 0:
            prompt = domain.prompt("sub_topics", count=count, topic=topic.data["name"], known=known)
            yield Ask((topic.id,), list_request(spec, prompt), {"count": count, "known": known})


def _sub_accept(reply: Reply, ask: Ask) -> list[dict[str, Any]] | Reject:
    objects = {one["name"]: one for one in read_objects(reply.text, SUB_FIELDS)}
    made = [dict(objects[name]) for name in _new(objects, ask) if len(name) <= LONGEST_NAME]
    return _enough(reply, made, ask, "no list of sub-topics with name, relevance and use case")


def _new(names: Any, ask: Ask) -> list[str]:
    """Names that are not known yet, each once."""
    seen = {folded(name) for name in ask.note["known"]}
    found = []
    for name in names:
        if folded(name) not in seen:
            seen.add(folded(name))
            found.append(name)
    return found


def _enough(reply: Reply, made: list[dict[str, Any]], ask: Ask, nothing: str) -> list[dict[str, Any]] | Reject:
    made = made[: ask.note["count"]]
    if (refused := unusable(reply)) is not None:
        return refused
    if not made:
        return Reject(nothing)
    return made if reply.finish != "length" else Reject("cut off by the length limit", tuple(made))


def _meta_counts(spec: Spec, domain: Domain, made: Mapping[str, int]) -> tuple[int, int]:
    counts = spec.counts_of(domain.name)
    return batches(counts.meta_topics, counts.batch), counts.meta_topics


def _sub_counts(spec: Spec, domain: Domain, made: Mapping[str, int]) -> tuple[int, int]:
    counts, topics = spec.counts_of(domain.name), made["meta_topics"]
    return topics * batches(counts.sub_topics, counts.batch), topics * counts.sub_topics


def _texts_schema() -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}}


META_TOPICS = Step(
    name="meta_topics",
    summary="broad topics of the domain",
    reads=(),
    makes=("name",),
    rounds=lambda spec, domain: missing_rounds(
        spec.counts_of(domain.name).meta_topics, spec.counts_of(domain.name).batch
    ),
    requests=_meta_requests,
    accept=_meta_accept,
    counts=_meta_counts,
    schema=_texts_schema(),
)
SUB_TOPICS = Step(
    name="sub_topics",
    summary="sub-topics with relevance and use case",
    reads=("meta_topics",),
    makes=SUB_FIELDS,
    rounds=lambda spec, domain: missing_rounds(
        spec.counts_of(domain.name).sub_topics, spec.counts_of(domain.name).batch
    ),
    requests=_sub_requests,
    accept=_sub_accept,
    counts=_sub_counts,
    schema={
        "type": "array",
        "items": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in SUB_FIELDS},
            "required": list(SUB_FIELDS),
            "additionalProperties": False,
        },
    },
)
