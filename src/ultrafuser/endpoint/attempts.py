"""Trying a call again: which failures are worth it, how long to wait, and when to give up.

The client library's own retries stay off: their waits cannot be interrupted, they take a page that is not JSON for an
answer, give up at a Retry-After above two minutes, and go on when an account has no credit left.
"""

from __future__ import annotations

import email.utils
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ultrafuser.endpoint.errors import EndpointError, RejectedError, rejection, status_error
from ultrafuser.endpoint.pace import Pace

__all__ = ["Attempts", "BadReplyError", "RefusedError"]

T = TypeVar("T")

LONGEST_BACKOFF = 30.0  # seconds
LONGEST_WAIT = 300.0  # seconds that a Retry-After may ask for
SLOW_RETRIES = 2  # after time-outs, which are long: a request that is too much stays too much
_AGAIN = frozenset({408, 409, 425, 429})  # and 5xx; 501 and 505 do not mend themselves
_NEVER = frozenset({501, 505})
_CODE = re.compile(r"^Error code: \d+( - )?")  # how the library starts its messages; the status is told anyway


class BadReplyError(Exception):
    """Status 200, but no reply in it."""


class RefusedError(Exception):
    """A status that says the request itself is at fault (4xx); the caller may know better what to make of it."""

    def __init__(self, status: int, body: Any, said: str) -> None:
        super().__init__(said)
        self.status, self.body, self.said = status, body, said

    def final(self, address: str) -> EndpointError:
        """What to tell the user when nothing can be made of it."""
        reason = rejection(self.status, self.body, self.said)
        if reason is not None:
            return RejectedError(f"{address} refused a request: {reason} ({self.said})", self.status)
        return status_error(address, self.status, self.said)


class Attempts:
    """Repeats a call up to `retries` times, with exponential back-off and jitter from `backoff` seconds on.

    Until something has been answered, a connection that cannot be made is tried only once more: a wrong address should
    be told at once. `count` is the number of retries so far. `pace` says when an attempt may begin.
    """

    def __init__(
        self, address: str, *, retries: int, backoff: float, timeout: float, secret: str, pace: Pace | None = None
    ) -> None:
        self.address = address
        self.count = 0
        self._pace = pace or Pace()
        self._retries, self._backoff, self._timeout, self._secret = retries, backoff, timeout, secret
        self._answered = False
        self._lock = threading.Lock()

    def run(self, call: Callable[[], T], stop: threading.Event | None = None) -> T:
        """The call's result. Raises RefusedError, or EndpointError when the retries are used up or `stop` is set."""
        stop = stop or threading.Event()
        attempt = 0
        while True:
            if self._pace.wait(stop):
                raise EndpointError(f"{self.address}: stopped while waiting for its turn")
            try:
                result = call()
            except Exception as error:
                attempt += 1
                wait = self._after(error, attempt)
                with self._lock:
                    self.count += 1
                if _pause(stop, wait):
                    raise EndpointError(f"{self.address}: stopped while waiting to try again") from error
            else:
                self._answered = True
                return result

    def _after(self, error: Exception, attempt: int) -> float:
        """Seconds to wait before the next attempt; raises what the user shall see when there is none."""
        import openai

        if isinstance(error, BadReplyError | UnicodeDecodeError | json.JSONDecodeError):
            final = EndpointError(
                f"{self.address} gives no chat completions ({self._clean(str(error))}, {attempt} times)"
            )
            return self._next(final, attempt, self._retries)
        connected = type(error.__cause__).__name__ != "ConnectTimeout"
        if isinstance(error, openai.APITimeoutError) and connected:
            return self._next(self._too_slow(attempt), attempt, min(self._retries, SLOW_RETRIES))
        if isinstance(error, openai.APIConnectionError):
            return self._next(
                self._unreachable(error), attempt, self._retries if self._answered else min(self._retries, 1)
            )
        if isinstance(error, openai.APIStatusError):
            return self._after_status(error, attempt)
        raise error

    def _after_status(self, error: Any, attempt: int) -> float:
        status, said = error.status_code, self._clean(error.message)
        again = status in _AGAIN or (status >= 500 and status not in _NEVER)
        if error.code == "insufficient_quota":
            raise status_error(self.address, 402, said) from error
        if not again:
            raise RefusedError(status, error.body, said) from error
        wait = self._next(status_error(self.address, status, said, attempt), attempt, self._retries)
        asked = _asked_wait(error.response.headers)
        if asked is None:
            return wait
        if asked > LONGEST_WAIT:
            raise EndpointError(
                f"{self.address} asks for a pause of {asked:.0f} s ({said}); run again then, the cache keeps the rest"
            ) from error
        self._pace.hold(asked)
        return asked

    def _next(self, final: EndpointError, attempt: int, retries: int) -> float:
        if attempt > retries:
            raise final
        longest = min(self._backoff * 2.0 ** (attempt - 1), LONGEST_BACKOFF)
        return longest * random.uniform(0.5, 1.0)

    def _too_slow(self, attempt: int) -> EndpointError:
        return EndpointError(
            f"{self.address} gave no answer within {self._timeout:g} seconds, {attempt} times; "
            "give it more time, fewer requests at a time, or shorter answers"
        )

    def _unreachable(self, error: Exception) -> EndpointError:
        reason = self._clean(str(error.__cause__ or error)) or type(error).__name__
        return EndpointError(
            f"{self.address} cannot be reached ({reason}); is the server running, and the address right?"
        )

    def _clean(self, said: str) -> str:
        """One line without the key, which a server may repeat."""
        line = " ".join(_CODE.sub("", said).split())[:300]
        return line.replace(self._secret, "***") if self._secret else line


def _pause(stop: threading.Event, seconds: float) -> bool:
    """Wait; True when told to stop."""
    return stop.wait(seconds)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for (a number or a date), None where it is absent or not understood."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return max(seconds, 0.0) if not math.isnan(seconds) else None
    date = email.utils.parsedate_tz(headers.get("retry-after"))
    return None if date is None else max(email.utils.mktime_tz(date) - time.time(), 0.0)
