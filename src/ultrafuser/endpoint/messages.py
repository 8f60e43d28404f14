"""What is asked of an endpoint and what comes back, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ChatRequest", "Reply", "TokenLogprob", "Usage"]

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call of /chat/completions. `messages` are {"role", "content"}.

    `top_logprobs` asks for that many alternatives per token (most endpoints give at most 20). `sample` tells repeated
    draws of the same request apart in the cache; it is not sent. `schema` asks for JSON of that JSON schema.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    sample: int = 0
    schema: Mapping[str, Any] | None = None

    def body(self, model: str) -> dict[str, Any]:
        """The request as it is sent, without what is left at its default; half surrogate pairs become "?"."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{key: _sendable(text) for key, text in message.items()} for message in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        if self.top_p != 1.0:
            body["top_p"] = self.top_p
        if self.seed is not None:
            body["seed"] = self.seed
        if self.stop:
            body["stop"] = list(self.stop)
        if self.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if self.schema is not None:
            wanted = {"name": "reply", "strict": True, "schema": self.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return body


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that could have stood at a position, with its log-probability in nats."""

    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request, as it came.

    `finish` is the endpoint's word for why it ended: "stop", "length" (cut off), "content_filter", ...; `refusal` is
    what a model said in place of an answer, where the endpoint tells. `text` may be empty. `top_logprobs` has the
    alternatives per token, None where they were not asked for or not given. `left_out` are parameters of the request
    that the model refuses, so that it was made without them. `cached` replies cost nothing now; their token counts are
    those of the call that made them.
    """

    text: str
    finish: str = "stop"
    refusal: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] | None = None
    left_out: tuple[str, ...] = ()
    cached: bool = False

    @property
    def finished(self) -> bool:
        """True where the model itself came to an end: neither cut off nor filtered nor a refusal."""
        return self.finish == "stop" and self.refusal is None

    def to_json(self) -> str:
        """One line for the cache."""
        data = asdict(self)
        del data["cached"]
        return json.dumps(data)

    @classmethod
    def from_json(cls, line: str) -> Reply:
        """A reply as it lies in the cache; raises ValueError, KeyError or TypeError for anything else."""
        data = json.loads(line)
        if data["top_logprobs"] is not None:
            data["top_logprobs"] = tuple(
                tuple(TokenLogprob(**one) for one in position) for position in data["top_logprobs"]
            )
        data["left_out"] = tuple(data.get("left_out", ()))
        return cls(**data, cached=True)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a client has used so far. Tokens are as the endpoint counted them, of calls made, not of cache hits."""

    calls: int = 0
    retries: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """Plain data for reports."""
        return asdict(self)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
