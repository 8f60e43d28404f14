"""What a step is: requests in, records out, both as pure functions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ultrafuser.endpoint import ChatRequest, Reply
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.records import Ask, Record, Reject
from ultrafuser.synthesis.spec import Spec

__all__ = ["Pool", "Step", "dice", "folded", "list_request", "unusable"]


class Pool(Protocol):
    """What a step sees of the records made so far; the journal is one."""

    def records(
        self, step: str, domain: str | None = None, *, rejected: bool = False, since: int = 0, limit: int = -1
    ) -> Iterator[Record]:
        """A step's records in the order of the plan."""

    def record(self, identity: str) -> Record | None:
        """A record by its id."""

    def children(self, identity: str, step: str) -> Iterator[Record]:
        """The records of a step whose first parent is this one, in the order of the plan."""

    def extent(self, step: str, domain: str) -> tuple[int, int]:
        """First and last place of a step's requests in a domain; (0, -1) where it has none."""


Requests = Callable[[Spec, Domain, Pool, int], Iterator[Ask]]
Accept = Callable[[Reply, Ask], list[dict[str, Any]] | Reject]


@dataclass(frozen=True, slots=True)
class Step:
    """One step. It is run in rounds, each of which sees all that the rounds and steps before it made.

    `reads` are the steps whose records it builds on, `makes` the fields of its own. `requests(spec, domain, pool,
    round)` yields what to ask, in an order that follows from its input alone; `accept(reply, ask)` turns a reply into
    records, or says why it cannot. `counts(spec, domain, made)` is the number of requests and of records expected,
    given those of the steps before it.
    """

    name: str
    summary: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    rounds: Callable[[Spec, Domain], int]
    requests: Requests
    accept: Accept
    counts: Callable[[Spec, Domain, Mapping[str, int]], tuple[int, int]]
    schema: Mapping[str, Any] | None = None


def dice(spec: Spec, *names: object) -> random.Random:
    """Random numbers that follow from the spec's seed and some names."""
    line = "\0".join(map(str, (spec.seed, *names)))
    return random.Random(int.from_bytes(hashlib.sha256(line.encode()).digest()[:8], "big"))


def list_request(spec: Spec, prompt: str, *, sample: int = 0) -> ChatRequest:
    """A request for topics or instructions."""
    how = spec.generation
    return ChatRequest(
        ({"role": "user", "content": prompt},), how.max_tokens, how.temperature, how.top_p, sample=sample
    )


def unusable(reply: Reply) -> Reject | None:
    """Why a reply is of no use whatever the step, or None."""
    if reply.refusal is not None or reply.finish == "content_filter":
        return Reject("refused by the endpoint")
    if not reply.text.strip():
        return Reject("empty")
    return None


def folded(text: str) -> str:
    """A text as it is compared: lower case, single spaces, no full stop at the end."""
    return " ".join(text.casefold().split()).rstrip(".!? ")
