"""The spec's endpoints as clients, each with its price, its limits and whether it can be used."""

from __future__ import annotations

import os
import threading
from typing import Any

from ultrafuser.endpoint import ChatClient, ChatRequest, EndpointError, RejectedError, Reply
from ultrafuser.synthesis.rows import Spent
from ultrafuser.synthesis.spec import EndpointSpec, Spec

__all__ = ["Line", "Lines"]

_HOPELESS = frozenset({401, 402, 403, 404})
FEWEST = 5  # requests without an answer, one after the other, that make an endpoint unusable
MILLION = 1e6


class Line:
    """One endpoint. It goes down at an error that no other request would escape, or at many requests in a row."""

    def __init__(self, endpoint: EndpointSpec) -> None:
        self.endpoint = endpoint
        self.client = ChatClient(
            endpoint.base_url,
            endpoint.model,
            os.environ.get(endpoint.key_variable),
            concurrency=endpoint.concurrency,
            retries=endpoint.retries,
            timeout=endpoint.timeout,
            requests_per_minute=endpoint.requests_per_minute,
        )
        self.name = self.client.address
        self.usable = True
        self._failing: set[str] = set()
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """The model's name."""
        return self.client.model

    def ask(self, request: ChatRequest, stop: threading.Event) -> Reply:
        """The endpoint's reply."""
        return self.client.ask(request, stop)

    def cost(self, reply: Reply) -> Spent:
        """What a reply used, in the endpoint's prices."""
        money = reply.prompt_tokens * self.endpoint.input_price + reply.completion_tokens * self.endpoint.output_price
        return Spent(1, reply.prompt_tokens, reply.completion_tokens, money / MILLION)

    def note(self, key: str, outcome: Any) -> None:
        """Take note of a request's outcome, which may mean that the endpoint cannot be used any more."""
        with self._lock:
            if isinstance(outcome, Exception) and not isinstance(outcome, RejectedError):
                self._failing.add(key)
            else:
                self._failing.clear()
            hopeless = isinstance(outcome, EndpointError) and outcome.status in _HOPELESS
            if hopeless or len(self._failing) >= max(FEWEST, self.endpoint.concurrency):
                self.usable = False


class Lines:
    """All endpoints of a spec; clients are opened at the first use."""

    def __init__(self, spec: Spec) -> None:
        self._endpoints = spec.endpoints
        self._lines: list[Line] = []

    def open(self) -> list[Line]:
        """The endpoints that can be used. Raises ValueError for addresses that are none."""
        if not self._lines:
            self._lines = [Line(endpoint) for endpoint in self._endpoints]
        return [line for line in self._lines if line.usable]

    @property
    def usable(self) -> bool:
        """Whether any endpoint can still be used."""
        return any(line.usable for line in self._lines)

    @property
    def size(self) -> int:
        """Requests under way at a time over all endpoints that can be used."""
        return sum(line.endpoint.concurrency for line in self._lines if line.usable)

    def close(self) -> None:
        """Close all clients."""
        for line in self._lines:
            line.client.close()
