"""What a program may use, what is run, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

__all__ = ["Limits", "Outcome", "Program", "Status"]

MIB = 1024**2
Status = Literal["passed", "failed", "timeout", "memory", "output", "killed"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one program with all its processes; sizes are in bytes, times in seconds.

    `seconds` is wall time, a backstop; `cpu_seconds` is a process's time on a processor, which does not depend on what
    else the machine does. `memory` is what all processes use together; each one's address space may be half a gibibyte
    larger. `processes` counts threads too. `disk` and `files` are the temporary folder's, `file_size` is one file's.
    `output` is what it may print.
    """

    seconds: float = 30.0
    cpu_seconds: float = 15.0
    memory: int = 1024 * MIB
    processes: int = 32
    open_files: int = 64
    file_size: int = 16 * MIB
    disk: int = 64 * MIB
    files: int = 1000
    output: int = MIB

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"sandbox limit {field.name}: {value!r} is not above zero; give a positive number")


@dataclass(frozen=True, slots=True)
class Program:
    """Python text to run, then `tests` in the same namespace.

    Both are compiled on their own, so that no unfinished string or block in `source` can swallow the tests.
    """

    source: str
    tests: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program: `status`, the end of what it printed (errors included), wall seconds.

    passed: source and tests ran to their end. failed: an error, or an exit before that end. timeout, memory, output:
    that limit was crossed. killed: a signal ended it, or another limit was crossed. Where something other than the
    program ended it, the last line of `output` says what.
    """

    status: Status
    output: str
    seconds: float

    @property
    def passed(self) -> bool:
        """True where source and tests ran to their end."""
        return self.status == "passed"

    @property
    def error(self) -> str:
        """The last line that is not blank: the error's own line of a traceback. Empty where it passed."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines and not self.passed else ""
