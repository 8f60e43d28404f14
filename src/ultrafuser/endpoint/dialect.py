"""Parameters that some models refuse: what is learnt from the first refusal is applied to all later requests.

Reasoning models behind OpenAI's own API want `max_completion_tokens` in place of `max_tokens` and only their default
temperature, and say so with status 400.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["Dialect"]

_REFUSED = re.compile(
    r"unsupported|not support|not permitted|invalid schema|unknown (parameter|argument)|unrecognized", re.IGNORECASE
)
_RENAMED = {"max_tokens": "max_completion_tokens"}
_DROPPED = ("temperature", "top_p", "seed", "response_format")


class Dialect:
    """Which parameters an endpoint's model wants renamed or left out."""

    def __init__(self) -> None:
        self.renamed: dict[str, str] = {}
        self.dropped: set[str] = set()

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body in this dialect."""
        return {self.renamed.get(name, name): value for name, value in body.items() if name not in self.dropped}

    def learn(self, status: int, body: Any, message: str) -> bool:
        """Take note of a refused parameter; False where the refusal names none that can be done without."""
        if status not in (400, 422) or not _REFUSED.search(f"{body} {message}"):
            return False
        param = body.get("param") if isinstance(body, dict) else None
        for name in (*_RENAMED, *_DROPPED):
            named = name == param if param else re.search(rf"\b{name}\b", message)
            if named and name not in {*self.renamed, *self.dropped}:
                if name in _RENAMED:
                    self.renamed[name] = _RENAMED[name]
                else:
                    self.dropped.add(name)
                return True
        return False
