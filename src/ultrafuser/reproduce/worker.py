"""A process that does runs, one after the other: `python -m ultrafuser.reproduce.worker FOLDER NUMBER`.

It reads the keys of runs from standard input and writes JSON lines to standard output; everything else goes to a log
file. It ends by itself when whoever started it is gone, so that a killed reproduction leaves nothing running.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Run, Store, in_order
from ultrafuser.workers import end_with_parent, take_stdout

JOB_FILE = "work/job.json"
ERROR_FILE = "error.txt"
SECONDS_FILE = "seconds.json"

Say = Callable[[dict[str, Any]], None]


def main(argv: list[str]) -> None:
    """Do the runs whose keys come in, until the input ends."""
    folder, number = Path(argv[0]), argv[1]
    lines = take_stdout(folder / "work" / f"worker-{number}.log")
    keys: queue.Queue[str] = queue.Queue()
    threading.Thread(target=end_with_parent, args=(keys.put,), daemon=True).start()

    def say(entry: dict[str, Any]) -> None:
        lines.write(json.dumps(entry) + "\n")
        lines.flush()

    job = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    _use_threads(job["threads"])
    worker = Worker(folder, Plan.model_validate(job["plan"]), say)
    while True:
        worker.do(keys.get())


class Worker:
    """Does runs by key, in this process; `say` is told of progress, of each end and of each failure."""

    def __init__(self, folder: Path, plan: Plan, say: Say) -> None:
        from ultrafuser.reproduce.context import Context
        from ultrafuser.reproduce.tables import wanted_runs

        self.store = Store(folder, plan)
        self.runs = in_order(wanted_runs(plan), plan)
        self.context = Context(plan, self.store)
        self.say = say

    def do(self, key: str) -> None:
        """Do one run; whatever it raises is told and written to error.txt in its folder, and ends nothing else."""
        run = self.runs[key]
        self.say({"started": key})
        try:
            self._do(key, run)
        except Exception as error:
            place = self.store.work(run)
            place.mkdir(parents=True, exist_ok=True)
            (place / ERROR_FILE).write_text(traceback.format_exc(), encoding="utf-8")
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self.say({"failed": key, "error": reason[0]})

    def _do(self, key: str, run: Run) -> None:
        if self.store.has(run):  # another worker that outlived its parent may have done it
            self.say({"done": key, "seconds": 0.0})
            return
        clock = _Clock(self.store.work(run) / SECONDS_FILE)
        found = {earlier.name: self.store.read(earlier) for earlier in run.after}
        last = (0.0, "")

        def report(phase: str, done: int, total: int, loss: float | None) -> None:
            nonlocal last
            now = time.monotonic()
            if phase != last[1] or done >= total or now - last[0] > 0.5:
                last = (now, phase)
                clock.keep()
                self.say({"at": key, "phase": phase, "done": done, "total": total, "loss": loss})

        result = run.function(self.context.of(run, report), dict(run.inputs), found)
        self.store.write(run, result, clock.seconds())
        self.say({"done": key, "seconds": clock.seconds()})


class _Clock:
    """Seconds that a run took, added up over the calls that worked on it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0
        self.started = time.monotonic()
        self.kept = self.started

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def keep(self) -> None:
        from ultrafuser.files import write_whole

        if time.monotonic() - self.kept > 5:
            self.kept = time.monotonic()
            write_whole(self.file, json.dumps(self.seconds()))


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


if __name__ == "__main__":
    main(sys.argv[1:])
