"""Runs a demo: two worker processes side by side, their progress merged, the parts put together into one result.

Killed at any moment, the same call goes on; a finished run is read, not repeated.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrafuser.demo.assemble import assemble
from ultrafuser.demo.parts import LANES, PARTS, Context, load_part, part_file, run_part
from ultrafuser.demo.plan import JOB_FILE, DemoPlan, DemoSources, open_folder, remove, write_model
from ultrafuser.demo.report import write_report
from ultrafuser.demo.results import DemoDetails, DemoResult
from ultrafuser.files import write_whole
from ultrafuser.workers import held

RESULT_FILE, DETAILS_FILE, REPORT_FILE = "result.json", "details.json", "report.html"
MAX_THREADS = 8


@dataclass(frozen=True)
class Progress:
    """How far one phase is; `loss` in nats per token where the phase trains."""

    phase: str
    done: int
    total: int
    loss: float | None = None


OnProgress = Callable[[Progress], None]


def run_demo(
    folder: Path,
    plan: DemoPlan,
    sources: DemoSources,
    *,
    overwrite: bool = False,
    in_process: bool = False,
    on_progress: OnProgress | None = None,
) -> tuple[DemoResult, DemoDetails, bool]:
    """Do the run, or what is left of it: its result, its details, and whether it had been finished before.

    `in_process` does all parts here, one after the other. Raises ValueError when the folder holds anything else.
    """
    open_folder(folder, plan, sources, overwrite=overwrite)
    taken = f"--output: another demo is running in {folder}; wait or use another"
    with held(folder / ".lock", taken) as lock:
        if (folder / RESULT_FILE).is_file():
            return (*load_result(folder), True)
        clock = _Clock(folder / "work" / "seconds.json", on_progress or (lambda progress: None))
        if in_process:
            context = Context(plan, sources, folder, clock.report)
            for name in PARTS:
                run_part(name, context)
        else:
            _run_workers(folder, plan, sources, clock, lock)
        result, details = assemble(plan, sources, {name: load_part(folder, name) for name in PARTS}, clock.seconds())
        write_model(folder / DETAILS_FILE, details)
        write_report(folder / REPORT_FILE, result, details)
        write_model(folder / RESULT_FILE, result)  # last: it marks the run as finished
        remove(folder / "work")
    return result, details, False


def load_result(folder: Path) -> tuple[DemoResult, DemoDetails]:
    """A finished run's numbers and details."""
    result = DemoResult.model_validate_json((folder / RESULT_FILE).read_text(encoding="utf-8"))
    details = DemoDetails.model_validate_json((folder / DETAILS_FILE).read_text(encoding="utf-8"))
    return result, details


@dataclass
class _Clock:
    """Adds up wall seconds by phase over all calls, and passes progress on."""

    file: Path
    on_progress: OnProgress
    started: float = field(default_factory=time.monotonic)
    saved: float = 0.0
    last: dict[int, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before: dict[str, float] = {}
        if self.file.is_file():
            self.before = json.loads(self.file.read_text(encoding="utf-8"))
        self.phases: dict[str, float] = {}

    def report(self, phase: str, done: int, total: int, loss: float | None, lane: int = 0) -> None:
        """Progress of one lane: the time since its last word belongs to the phase that it now speaks of."""
        now = time.monotonic()
        _, since = self.last.get(lane, (phase, self.started))
        self.phases[phase] = self.phases.get(phase, 0.0) + now - since
        self.last[lane] = (phase, now)
        if now - self.saved > 2:
            self.saved = now
            write_whole(self.file, json.dumps(self.seconds()))
        self.on_progress(Progress(phase, done, total, loss))

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and `total`: wall time of all calls together."""
        now = {"total": time.monotonic() - self.started, **self.phases}
        names = dict.fromkeys([*self.before, *now])
        return {name: round(self.before.get(name, 0.0) + now.get(name, 0.0), 2) for name in names}


def _run_workers(folder: Path, plan: DemoPlan, sources: DemoSources, clock: _Clock, lock: int | None) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lanes: Sequence[Sequence[str]] = LANES if cores > 1 else [list(PARTS)]
    threads = max(1, min(MAX_THREADS, cores // len(lanes)))
    job = {"plan": plan.model_dump(), "sources": sources.model_dump(), "threads": threads}
    write_whole(folder / JOB_FILE, json.dumps(job))
    pending = [[name for name in lane if not part_file(folder, name).is_file()] for lane in lanes]
    events: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    workers: list[subprocess.Popen] = []
    try:
        for lane, names in enumerate(pending):
            if names:
                workers.append(_start(folder, names, threads, lock))
                threading.Thread(target=_listen, args=(lane, workers[-1], events), daemon=True).start()
        _follow(events, len(workers), clock, folder)
    finally:
        for worker in workers:
            with contextlib.suppress(OSError):
                assert worker.stdin is not None
                worker.stdin.close()  # the worker ends by itself
        for worker in workers:
            worker.wait()


def _start(folder: Path, names: Sequence[str], threads: int, lock: int | None) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, "-m", "ultrafuser.demo.worker", str(folder), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        pass_fds=() if lock is None else (lock,),  # a worker that outlives a killed run keeps the folder locked
        start_new_session=True,  # Ctrl-C reaches this process only, which then ends its workers
    )


def _listen(lane: int, worker: subprocess.Popen, events: queue.Queue) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        events.put((lane, json.loads(line)))
    status = worker.wait()
    events.put((lane, None if status == 0 else {"failed": status}))


def _follow(events: queue.Queue, running: int, clock: _Clock, folder: Path) -> None:
    error = ""
    while running:
        lane, event = events.get()
        if event is None:
            running -= 1
        elif "failed" in event:
            logs = folder / "work"
            raise ValueError(error or f"a worker of the demo ended with status {event['failed']}; see {logs}/*.log")
        elif "error" in event:
            error = event["error"]
        else:
            clock.report(event["phase"], event["done"], event["total"], event["loss"], lane)
