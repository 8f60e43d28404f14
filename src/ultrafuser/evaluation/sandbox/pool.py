"""The sandbox: programs in, outcomes out, several at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from ultrafuser.evaluation.sandbox import layers
from ultrafuser.evaluation.sandbox.limits import Limits, Outcome, Program
from ultrafuser.evaluation.sandbox.supervise import Cell, run_program

__all__ = ["Sandbox"]


class Sandbox:
    """Runs untrusted Python programs (docs/sandbox.md says what they are kept from, and by what).

    `workers` programs run at once, as many as there are processors unless told otherwise. Raises ValueError where this
    machine cannot isolate them, unless `allow_unsafe`: then they run with limits and a time-out alone, where nothing
    better is there. `layer` asks for one kind of cell instead of the strongest (a key of `layers.CELLS`).
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        workers: int | None = None,
        allow_unsafe: bool = False,
        layer: str | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.workers = workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
        self._running: set[threading.Event] = set()
        try:
            self._cell = layers.choose(layer)
        except ValueError:
            if not allow_unsafe:
                raise
            self._cell = Cell("none")

    def run(self, programs: Sequence[Program | str]) -> list[Outcome]:
        """Run each, and give their outcomes in the order of the programs."""
        whole = [Program(program) if isinstance(program, str) else program for program in programs]
        stopped = threading.Event()
        self._running.add(stopped)

        def run(program: Program) -> Outcome:
            return run_program(program, layers.with_uid(self._cell), self.limits, stopped)

        pool = ThreadPoolExecutor(max_workers=self.workers, thread_name_prefix="sandbox")
        try:
            return list(pool.map(run, whole))
        finally:
            stopped.set()  # after Ctrl-C, or where a cell could not be made, the others end too
            pool.shutdown(wait=True, cancel_futures=True)
            self._running.discard(stopped)

    def describe(self) -> dict[str, Any]:
        """Which layers hold a program from files, network and processes here, and the limits, for a run's record."""
        return {**layers.describe(self._cell), "limits": asdict(self.limits)}

    def close(self) -> None:
        """Stop what still runs: its outcome is `killed`."""
        for stopped in list(self._running):
            stopped.set()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
