"""What lies in a row of the journal, and what an answer comes to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ultrafuser.endpoint import ChatRequest
from ultrafuser.synthesis.records import Ask, Record, record_id

__all__ = ["Planned", "Settled", "Spent", "as_json", "columns", "planned_of", "record_of", "storable"]


@dataclass(frozen=True, slots=True)
class Planned:
    """A request as it lies in the journal; `attempts` are the replies so far that could not be used."""

    key: str
    step: str
    domain: str
    about: tuple[str, ...]
    note: Mapping[str, Any]
    body: Mapping[str, Any]
    attempts: int

    @property
    def ask(self) -> Ask:
        """What its step asked for."""
        body = self.body
        request = ChatRequest(
            tuple(body["messages"]), body["max_tokens"], body["temperature"], body["top_p"], sample=body["sample"]
        )
        return Ask(self.about, request, self.note)


@dataclass(frozen=True, slots=True)
class Spent:
    """What the run has used so far: answered requests (every attempt counts), tokens, money."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and replies."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of an answer: records, or the reason why none could be made of it; `again` asks once more."""

    made: Sequence[Mapping[str, Any]] = ()
    reason: str | None = None
    again: bool = False
    spent: Spent = field(default_factory=Spent)
    endpoint: str = ""
    model: str = ""


def columns(ask: Ask) -> tuple[str | None, str, str, str]:
    """First parent, parents, note and body of a request as the table of requests holds them."""
    request = ask.request
    body = {
        "messages": [dict(message) for message in request.messages], "max_tokens": request.max_tokens,
        "temperature": request.temperature, "top_p": request.top_p, "sample": request.sample,
    }  # fmt: skip
    return (ask.about[0] if ask.about else None), json.dumps(ask.about), as_json(ask.note), as_json(body)


def planned_of(row: Sequence[Any]) -> Planned:
    """A request from its columns."""
    key, step, domain, about, note, body, attempts = row
    return Planned(key, step, domain, tuple(json.loads(about)), json.loads(note), json.loads(body), attempts)


def record_of(row: Sequence[Any]) -> Record:
    """A record from its columns and those of its request."""
    request, number, step, domain, data, about, state, reason = row
    parents = tuple(json.loads(about))
    return Record(record_id(request, number), step, domain, json.loads(data), parents, state, reason)


def as_json(value: Any) -> str:
    """A value as short JSON that SQLite can store."""
    return storable(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def storable(text: str) -> str:
    """Half of a surrogate pair, which SQLite cannot store, becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")
