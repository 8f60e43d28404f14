"""Duplicates: records that say what an earlier one says already. The plan's order decides which one stays."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from importlib.util import find_spec
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from ultrafuser.data.decontamination import words
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.filters.filter import REQUESTS, Filter, FilterOptions, Verdicts, Work, text_of
from ultrafuser.synthesis.records import EDITED, Record
from ultrafuser.synthesis.spec import Spec

__all__ = ["DUPLICATES", "NEAR_DUPLICATES", "shingles", "similarity"]

EXAMPLE = "example"  # in place of a step
TOPICS = ("meta_topics", "sub_topics")
BANDS, ROWS = 20, 5  # a pair of similarity 0.7 becomes a candidate with probability 0.975, one of 0.8 with 0.9996
SEED = 42  # of the hash functions


class NearOptions(FilterOptions):
    """Options of near_duplicates."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Similarity from which a record counts as a repetition: the share of word pairs that two texts have in common."""


def _pool(work: Work, domain: str | None) -> Iterator[tuple[Record, bool]]:
    """All that a record may repeat, in order, and whether it is one to be judged.

    First the examples of the domain files: models like to copy what they are shown.
    """
    for one in work.domains if work.step in REQUESTS else ():
        if domain in (None, one.name):
            yield from ((example, False) for example in _examples(one))
    order = REQUESTS if work.step in REQUESTS else (work.step,)
    judged = {one.name for one in work.domains}
    for step in order[: order.index(work.step) + 1]:
        for record in work.journal.records(step, domain):
            yield record, step == work.step and record.state != EDITED and record.domain in judged


def _examples(domain: Domain) -> Iterator[Record]:
    for number, example in enumerate(domain.examples, start=1):
        yield Record(f"example {number} of domain {domain.name}", EXAMPLE, domain.name, {"text": example.instruction})


def _exact(work: Work) -> Verdicts:
    """Records whose words are those of an earlier one: of the whole pool, for topics of their domain."""
    seen: set[int] = set()
    doubles: list[tuple[str, int]] = []
    for record, judged in _pool(work, None):
        key = _key(record)
        if judged and key in seen:
            doubles.append((record.id, key))
        seen.add(key)
    first: dict[int, str] = {}
    wanted = {key for _, key in doubles}
    for record, _ in _pool(work, None) if wanted else ():
        key = _key(record)
        if key in wanted:
            first.setdefault(key, record.id)
    for identity, key in doubles:
        yield identity, f"same words as an earlier one: {first[key]}"


def _key(record: Record) -> int:
    """A hash of what counts as the same: letters and digits, in order, and for topics the domain."""
    text = text_of(record)
    said = words(text) if record.step in TOPICS else text.casefold().split()
    where = record.domain if record.step in TOPICS else ""
    line = "\0".join([where, *said])
    return int.from_bytes(blake2b(line.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def shingles(text: str) -> set[str]:
    """The pairs of neighbouring words of a text; words are runs of letters and digits."""
    found = words(text)
    return {f"{a} {b}" for a, b in pairwise(found)} or set(found)


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two texts' word pairs, from 0 to 1."""
    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b) if a or b else 1.0


def _near(work: Work) -> Verdicts:
    """Records like an earlier kept one of their domain: candidates by MinHash, then compared word by word.

    Broder 1997, "On the resemblance and containment of documents"; signatures and index are rensa's. Memory is about
    2 KB a record of the largest domain; texts are read again from the journal when they are compared.
    """
    from rensa import RMinHash, RMinHashLSH

    for domain in work.domains:
        index = RMinHashLSH(threshold=work.options.threshold, num_perm=BANDS * ROWS, num_bands=BANDS)
        ids: list[str] = []
        examples = {example.id: example for example in _examples(domain)}
        for record, judged in _pool(work, domain.name):
            text = text_of(record)
            signature = RMinHash(num_perm=BANDS * ROWS, seed=SEED)
            signature.update(sorted(shingles(text)))
            candidates = sorted(index.query(signature)) if judged else []
            others = (examples.get(ids[n]) or work.journal.record(ids[n]) for n in candidates)
            found = next((hit for other in others if other and (hit := _like(work, text, other))), None)
            if found is not None:
                yield record.id, found
                continue
            index.insert(len(ids), signature)
            ids.append(record.id)


def _like(work: Work, text: str, other: Record) -> str | None:
    alike = similarity(text, text_of(other))
    return f"like an earlier one: {other.id}, similarity {alike:.2f}" if alike >= work.options.threshold else None


def _installed(spec: Spec, options: Any) -> None:
    if find_spec("rensa") is None:
        raise ValueError("near_duplicates needs the package rensa; run: pip install 'ultrafuser[synth]'")


DUPLICATES = Filter(
    name="duplicates",
    summary="repeats an earlier record word by word",
    steps=(*TOPICS, *REQUESTS, "responses"),
    usual=(*TOPICS, *REQUESTS),
    judge=_exact,
)
NEAR_DUPLICATES = Filter(
    name="near_duplicates",
    summary="is nearly the same as an earlier record of its domain",
    steps=REQUESTS,
    judge=_near,
    options=NearOptions,
    ready=_installed,
)
