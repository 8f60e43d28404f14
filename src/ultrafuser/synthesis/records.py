"""What steps exchange: requests to make, replies that cannot be used, and the records made of those that can."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ultrafuser.endpoint import ChatRequest

__all__ = ["EDITED", "KEPT", "REJECTED", "Ask", "Record", "Reject", "record_id"]

KEPT, EDITED, REJECTED = "kept", "edited", "rejected"  # states of a record; a rejected one stays, with its reason


@dataclass(frozen=True, slots=True)
class Record:
    """One thing made by a step: a meta-topic, a sub-topic, an instruction, a response, ...

    `data` are its fields as the step declares them; `parents` are the ids of the records that it was made from; the
    prompt that made it is the journal's request whose key is the id up to the dot.
    """

    id: str
    step: str
    domain: str
    data: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    state: str = KEPT
    reason: str | None = None

    @property
    def request(self) -> str:
        """Key of the request whose reply it came from."""
        return self.id.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that a step wants made. `about` are the records it builds on: parents of what comes out.

    `note` is what the step needs to read the reply, as plain JSON data.
    """

    about: tuple[str, ...]
    request: ChatRequest
    note: Mapping[str, Any] = field(default_factory=dict)

    def key(self, seed: int, step: str, round_: int, domain: str) -> str:
        """What this request is known by: a hash of everything in the plan that decides it, and of nothing else."""
        asked = self.request
        decided = [seed, step, round_, domain, self.about, asked.messages, asked.max_tokens, asked.temperature]
        line = json.dumps([*decided, asked.top_p, asked.sample], separators=(",", ":"))
        return hashlib.sha256(line.encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class Reject:
    """A reply that cannot be used, and why. `salvage` is what could be read of it, taken when no better one comes."""

    reason: str
    salvage: tuple[Mapping[str, Any], ...] = ()


def record_id(request: str, number: int) -> str:
    """Id of a reply's record `number`, counted from 0: it follows from the plan, not from when the reply came."""
    return f"{request}.{number}"
