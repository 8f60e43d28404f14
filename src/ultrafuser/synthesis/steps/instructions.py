"""Instructions for every sub-topic, and further ones made by showing a model those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ultrafuser.endpoint import Reply
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.parsing import read_texts
from ultrafuser.synthesis.records import Ask, Record, Reject
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps.step import Pool, Step, dice, folded, list_request, unusable
from ultrafuser.synthesis.steps.topics import batches, missing_rounds

__all__ = ["EXPANSION", "INSTRUCTIONS", "distance", "echoes"]

SHORTEST = 15  # characters of an instruction
SHOWN = 3  # instructions that an expansion is shown
CANDIDATES = 24  # instructions that those shown are chosen from
KNOWN = 12  # instructions of the same sub-topic that a later round is shown
GRAM = 3  # words
ALIKE = 0.65  # share of n-grams in common from which two texts are the same
CONTAINED = 0.8  # share of the shorter one's n-grams in the longer one from which it is a part of it
LONG_ENOUGH = 20  # n-grams: what is shorter may well occur in another text


def distance(first: str, second: str) -> float:
    """How far two texts are apart: 1 minus the share of word n-grams (1 to 3 words) that they have in common."""
    a, b = _grams(first), _grams(second)
    return 1.0 - len(a & b) / max(1, len(a | b))


def echoes(text: str, others: Iterable[str]) -> bool:
    """Whether a text says again what one of the others says: nearly the same words, or most of them a part of it."""
    mine = _grams(text)
    for other in others:
        theirs = _grams(other)
        shared, shorter = len(mine & theirs), min(len(mine), len(theirs))
        if shared > ALIKE * len(mine | theirs) or (shorter >= LONG_ENOUGH and shared > CONTAINED * shorter):
            return True
    return False


def _grams(text: str) -> set[tuple[str, ...]]:
    words = folded(text).split()
    return {tuple(words[i : i + n]) for n in range(1, GRAM + 1) for i in range(len(words) - n + 1)}


def _instruction_requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
    counts = spec.counts_of(domain.name)
    names = {record.id: record.data["name"] for record in pool.records("meta_topics", domain.name)}
    for topic in pool.records("sub_topics", domain.name):
        there = pool.children(topic.id, "instructions") if round_ else ()
        known = [record.data["text"] for record in there]
        count = min(counts.batch, counts.instructions - len(known))
        if count > 0 and topic.parents[0] in names:
            draw = dice(spec, "instructions", topic.id, round_)
            examples = draw.sample(domain.examples, 2)
            prompt = domain.prompt(
                "instructions", count=count, topic=names[topic.parents[0]], sub_topic=topic.data["name"],
                relevance=topic.data["relevance"], use_case=topic.data["use_case"], known=known[-KNOWN:],
                kinds=draw.sample(domain.kinds, min(4, len(domain.kinds))), level=draw.choice(domain.levels),
                examples=examples,
            )  # fmt: skip
            note = {"count": count, "known": [*(example.instruction for example in domain.examples), *known]}
            yield Ask((topic.id, topic.parents[0]), list_request(spec, prompt), note)


def _instruction_accept(reply: Reply, ask: Ask) -> list[dict[str, Any]] | Reject:
    if (refused := unusable(reply)) is not None:
        return refused
    read = [text for text in read_texts(reply.text) if len(text) >= SHORTEST]
    texts: list[str] = []
    for text in read:
        if not echoes(text, [*ask.note["known"], *texts]):
            texts.append(text)
    extra = {key: ask.note[key] for key in ("related",) if key in ask.note}
    made = [{"text": text, **extra} for text in texts[: ask.note["count"]]]
    if not made:
        return Reject("repeats what was shown" if read else "no list of instructions")
    return made if reply.finish != "length" else Reject("cut off by the length limit", tuple(made))


def _expansion_requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
    """Half of the requests show instructions that are alike, half such that have little in common."""
    counts = spec.counts_of(domain.name)
    size = sum(1 for _ in pool.records("instructions", domain.name))
    missing = round(size * counts.expansion) - sum(1 for _ in pool.records("expansion", domain.name))
    for number in range(batches(missing, counts.batch) if missing > 0 else 0):
        draw = dice(spec, "expansion", domain.name, round_, number)
        related = number % 2 == 0
        chosen = _chosen(_candidates(pool, domain.name, draw), related)
        if not chosen:
            return
        count = min(counts.batch, missing - number * counts.batch)
        texts = [record.data["text"] for record in chosen]
        prompt = domain.prompt("expansion", count=count, examples=texts, related=related)
        note = {"count": count, "known": texts, "related": "strongly" if related else "weakly"}
        yield Ask(tuple(record.id for record in chosen), list_request(spec, prompt), note)


def _candidates(pool: Pool, domain: str, draw: Any) -> list[Record]:
    """Instructions drawn from the pool, without going through all of it."""
    found: dict[str, Record] = {}
    extents = [(step, *pool.extent(step, domain)) for step in ("instructions", "expansion")]
    places = [(step, first, last) for step, first, last in extents if last >= first]
    weights = [last - first + 1 for _, first, last in places]
    for _ in range(CANDIDATES if places else 0):
        step, first, last = draw.choices(places, weights)[0]
        near = list(pool.records(step, domain, since=draw.randint(first, last), limit=8))
        same = [record for record in near if record.request == near[0].request]
        if same:
            record = draw.choice(same)
            found[record.id] = record
    return list(found.values())


def _chosen(candidates: Sequence[Record], related: bool) -> list[Record]:
    """The first candidate and those nearest to it, or one after the other those farthest from all chosen before."""
    if not candidates:
        return []
    chosen, rest = [candidates[0]], list(candidates[1:])
    while rest and len(chosen) < SHOWN:
        gaps = [min(distance(record.data["text"], one.data["text"]) for one in chosen) for record in rest]
        wanted = min(gaps) if related else max(gaps)
        chosen.append(rest.pop(gaps.index(wanted)))
    return chosen


def _instruction_counts(spec: Spec, domain: Domain, made: Mapping[str, int]) -> tuple[int, int]:
    counts, topics = spec.counts_of(domain.name), made["sub_topics"]
    return topics * batches(counts.instructions, counts.batch), topics * counts.instructions


def _expansion_counts(spec: Spec, domain: Domain, made: Mapping[str, int]) -> tuple[int, int]:
    counts = spec.counts_of(domain.name)
    wanted = round(made["instructions"] * counts.expansion)
    return batches(wanted, counts.batch), wanted


INSTRUCTIONS = Step(
    name="instructions",
    summary="instructions for every sub-topic",
    reads=("meta_topics", "sub_topics"),
    makes=("text",),
    rounds=lambda spec, domain: missing_rounds(
        spec.counts_of(domain.name).instructions, spec.counts_of(domain.name).batch
    ),
    requests=_instruction_requests,
    accept=_instruction_accept,
    counts=_instruction_counts,
    schema={"type": "array", "items": {"type": "string"}},
)
EXPANSION = Step(
    name="expansion",
    summary="further instructions, by example from those that are there",
    reads=("instructions",),
    makes=("text", "related"),
    rounds=lambda spec, domain: 3,
    requests=_expansion_requests,
    accept=_instruction_accept,
    counts=_expansion_counts,
    schema={"type": "array", "items": {"type": "string"}},
)
