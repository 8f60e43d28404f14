"""What goes wrong with endpoints, in one line that names the address, the reason and the fix."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["EndpointError", "RejectedError", "rejection", "status_error"]


class EndpointError(ValueError):
    """The endpoint cannot be used as asked: other requests would fail too. `status` is HTTP's, where there is one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RejectedError(EndpointError):
    """The endpoint will not answer this one request, whatever is done; others may be answered."""


_REJECTIONS = {
    "the prompt is too long for the model's context": re.compile(
        r"context_length_exceeded|exceed_context_size|context (size|length|window)|maximum context"
        r"|max_model_len|prompt is too long|too many tokens|string_above_max_length",
        re.IGNORECASE,
    ),
    "its content filter refused the prompt": re.compile(
        r"content_filter|content management policy|content_policy_violation", re.IGNORECASE
    ),
}

_FIXES = {
    401: "give the right key (environment variable OPENAI_API_KEY)",
    402: "the account has no credit left",
    403: "the key may not use this model; ask its owner",
    404: "check the address (it usually ends in /v1) and the model's name",
    429: "wait, or lower the number of requests at a time; answers so far are kept in the cache",
}


def rejection(status: int, body: Any, message: str) -> str | None:
    """Why this request alone was refused, or None where the trouble lies with all of them."""
    if status == 413:
        return "the request is too large"
    if status not in (400, 422):
        return None
    said = f"{body} {message}"
    return next((reason for reason, pattern in _REJECTIONS.items() if pattern.search(said)), None)


def status_error(address: str, status: int, said: str, attempts: int = 1) -> EndpointError:
    """The error for an HTTP status that is no success, after `attempts` attempts."""
    fix = _FIXES.get(status, "see the server's log" if status >= 500 else "check the request's settings")
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    return EndpointError(f"{address} answered with HTTP status {status}{tries} ({said}); {fix}", status)
