"""Gives the missing runs to worker processes side by side, passes their progress on and collects what failed.

Killed at any time, the same call goes on: what is done is kept, and a training goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrafuser.files import write_whole
from ultrafuser.reproduce.doing import JOB_FILE, Worker
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Run, Store

MAX_THREADS = 8


@dataclass(frozen=True)
class Event:
    """Something to tell: `kind` is started, at, done or failed; `left` seconds are left by the runs so far."""

    kind: str
    run: str
    finished: int
    total: int
    left: float | None = None
    seconds: float = 0.0
    phase: str = ""
    done: int = 0
    steps: int = 0
    loss: float | None = None
    error: str = ""


OnEvent = Callable[[Event], None]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def do_runs(
    runs: Mapping[str, Run], store: Store, *, workers: int, on_event: OnEvent, lock: int | None = None
) -> dict[str, str]:
    """Do the runs (by key, in order) that have no result yet; returns what failed: name -> reason.

    `workers` 0 does them in this process. A run whose forerunner failed is not begun and fails by that.
    """
    state = _State(dict(runs), store, on_event, max(1, workers))
    if not state.pending:
        return {}
    if workers == 0:
        worker = Worker(store.folder, store.plan, lambda entry: state.hear(entry))
        while (key := state.next()) is not None:
            worker.do(key)
    else:
        _with_processes(state, store.folder, store.plan, min(workers, len(state.pending)), lock)
    return state.failures


@dataclass
class _State:
    """What is pending, under way and failed."""

    runs: dict[str, Run]
    store: Store
    on_event: OnEvent
    workers: int
    failures: dict[str, str] = field(default_factory=dict)
    took: float = 0.0
    expected: float = 0.0
    started: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pending = [key for key, run in self.runs.items() if not self.store.has(run)]
        self.finished = len(self.runs) - len(self.pending)

    def next(self) -> str | None:
        """The first pending run whose forerunners are there; those that can never begin are failed on the way."""
        for key in list(self.pending):
            run = self.runs[key]
            broken = next((e.name for e in run.after if e.name in self.failures), None)
            if broken is not None:
                self.pending.remove(key)
                self._fail(key, f"needs {broken}, which failed")
            elif all(self.store.has(earlier) for earlier in run.after):
                self.pending.remove(key)
                self.started[key] = time.monotonic()
                return key
        return None

    def hear(self, entry: dict[str, Any]) -> None:
        """A worker's word."""
        if "started" in entry:
            self._tell("started", entry["started"])
        elif "at" in entry:
            about = {"phase": entry["phase"], "done": entry["done"], "steps": entry["total"], "loss": entry["loss"]}
            self._tell("at", entry["at"], **about)
        elif "done" in entry:
            key = entry["done"]
            self.took += time.monotonic() - self.started.pop(key)
            self.expected += self.runs[key].cost
            self.finished += 1
            self._tell("done", key, seconds=entry["seconds"])
        elif "failed" in entry:
            self.started.pop(entry["failed"], None)
            self._fail(entry["failed"], entry["error"])

    def _fail(self, key: str, reason: str) -> None:
        self.failures[self.runs[key].name] = reason
        self._tell("failed", key, error=reason)

    def _tell(self, kind: str, key: str, **about: Any) -> None:
        self.on_event(Event(kind, self.runs[key].name, self.finished, len(self.runs), self._left(), **about))

    def _left(self) -> float | None:
        """Seconds left: the costs still to come, in the proportion of time to cost so far."""
        if not self.expected:
            return None
        now, pace = time.monotonic(), self.took / self.expected
        ahead = sum(self.runs[key].cost * pace for key in self.pending)
        ahead += sum(max(0.0, self.runs[key].cost * pace - (now - since)) for key, since in self.started.items())
        return ahead / self.workers


def _with_processes(state: _State, folder: Path, plan: Plan, count: int, lock: int | None) -> None:
    threads = max(1, min(MAX_THREADS, cores() // count))
    write_whole(folder / JOB_FILE, json.dumps({"plan": plan.model_dump(), "threads": threads}))
    events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    processes: dict[int, subprocess.Popen] = {}
    busy: dict[int, str] = {}
    try:
        while True:
            for number in range(count):
                if number not in busy and (key := state.next()) is not None:
                    if number not in processes:
                        processes[number] = _start(folder, number, threads, lock, events)
                    busy[number] = key
                    with contextlib.suppress(OSError):  # one that has died says so below
                        _tell(processes[number], key)
            if not busy:
                return
            number, entry = events.get()
            if "ended" in entry:
                del processes[number]
                if number in busy:
                    entry = {"failed": busy[number], "error": _end_of(entry["ended"], folder, number)}
            if number in busy and busy[number] in (entry.get("done"), entry.get("failed")):
                del busy[number]
            state.hear(entry)
    finally:
        for process in processes.values():
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()  # the worker ends by itself
        for process in processes.values():
            process.wait()


def _start(folder: Path, number: int, threads: int, lock: int | None, events: queue.Queue) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ultrafuser.reproduce.worker", str(folder), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        pass_fds=() if lock is None else (lock,),  # a worker that outlives a killed call keeps the folder locked
        start_new_session=True,  # Ctrl-C reaches this process only, which then ends its workers
    )
    threading.Thread(target=_listen, args=(number, process, events), daemon=True).start()
    return process


def _tell(process: subprocess.Popen, key: str) -> None:
    assert process.stdin is not None
    process.stdin.write(key + "\n")
    process.stdin.flush()


def _listen(number: int, process: subprocess.Popen, events: queue.Queue) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        events.put((number, json.loads(line)))
    events.put((number, {"ended": process.wait()}))


def _end_of(status: int, folder: Path, number: int) -> str:
    log = folder / "work" / f"worker-{number}.log"
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"its process {how} (out of memory?); see {log}"
