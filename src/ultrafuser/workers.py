"""What a command and the processes that it starts to work for it share: a lock, a private output, a common end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

__all__ = ["end_with_parent", "held", "take_stdout"]

LOCK_WAIT = 15.0  # seconds that a killed command's workers may take to be gone


def take_stdout(log: Path) -> IO[str]:
    """Keep standard output for lines to the parent; whatever libraries print, errors included, goes to the log."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    return lines


def end_with_parent(on_line: Callable[[str], None] = lambda line: None) -> None:
    """Read lines from standard input, and end this process when the other end is closed, however the parent ended."""
    rest = b""
    while block := os.read(0, 4096):  # unbuffered, so that exit is free
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            on_line(line.decode("utf-8"))
    os._exit(1)


@contextlib.contextmanager
def held(file: Path, taken: str) -> Iterator[int | None]:
    """Holds a lock on `file` and yields its descriptor, which workers inherit: they hold it on when they outlive this.

    Waits `LOCK_WAIT` seconds for the workers of a killed command; then raises ValueError with the text `taken`.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield None
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ValueError(taken) from None
                time.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)
