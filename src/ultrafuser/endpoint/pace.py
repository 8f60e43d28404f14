"""When the next call to an endpoint may begin: a rate limit, and pauses that the endpoint asks for."""

from __future__ import annotations

import threading
import time

__all__ = ["Pace"]


class Pace:
    """Spaces calls evenly to `per_minute` (None: no limit), and holds all of them while the endpoint wants a pause.

    Safe to use from several threads.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        if per_minute is not None and not per_minute > 0:
            raise ValueError(f"requests_per_minute: {per_minute} is no rate; give a number above 0, or none")
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0  # when the next call may begin
        self._held = 0.0  # no call begins before
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event | None = None) -> bool:
        """Wait for one's turn; True when told to stop meanwhile."""
        stop = stop or threading.Event()
        with self._lock:
            turn = max(self._next, time.monotonic())
            if self._gap:
                self._next = turn + self._gap
        while (left := max(turn, self._held) - time.monotonic()) > 0:
            if stop.wait(left):
                return True
        return False

    def hold(self, seconds: float) -> None:
        """Let no call begin for so long."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)
            if self._gap:
                self._next = max(self._next, self._held)
