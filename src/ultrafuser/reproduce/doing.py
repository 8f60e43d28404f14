"""Does single runs by their key, keeps what they give and how long they took, and tells what went wrong."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultrafuser.files import write_whole
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Run, Store, in_order
from ultrafuser.reproduce.tables import wanted_runs

JOB_FILE = "work/job.json"  # what the workers are told
ERROR_FILE = "error.txt"
SECONDS_FILE = "seconds.json"
WORK = "work"  # where trainings keep their checkpoints

Say = Callable[[dict[str, Any]], None]


class Worker:
    """Does runs by key, in this process; `say` is told of progress, of each end and of each failure."""

    def __init__(self, folder: Path, plan: Plan, say: Say) -> None:
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
        self._tidy(run)
        self.say({"done": key, "seconds": clock.seconds()})

    def _tidy(self, run: Run) -> None:
        """Drop what only going on needs: checkpoints and training logs; models stay."""
        place = self.store.work(run)
        for name in (ERROR_FILE, SECONDS_FILE):
            (place / name).unlink(missing_ok=True)
        for work in [path for path in place.rglob(WORK) if path.is_dir()]:
            shutil.rmtree(work, ignore_errors=True)


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
        if time.monotonic() - self.kept > 5:
            self.kept = time.monotonic()
            write_whole(self.file, json.dumps(self.seconds()))
