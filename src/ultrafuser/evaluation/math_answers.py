"""Is an answer to a mathematical problem right? Compared by math-verify in worker processes with a hard time limit.

math-verify's own limits are alarms of the process, which fail in threads and cannot stop a power tower that is being
computed; so it works in processes of its own, which are ended from here when they take too long. The workers are
plain child processes that speak JSON lines, so that nothing of the caller (a script without a main guard, threads, an
open CUDA device) is repeated or inherited in them.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

from ultrafuser.evaluation.choice_letters import final_letter

__all__ = ["Checked", "Kind", "MathChecker", "require_library"]

Kind = Literal["number", "latex", "letter"]

START_SECONDS = 120.0  # to import math-verify, on a machine that has other things to do


@dataclass(frozen=True, slots=True)
class Checked:
    """One comparison: `extracted` is the final answer that was found (None: none, or two), `note` why it is wrong."""

    correct: bool
    extracted: str | None
    note: str = ""


class MathChecker:
    """Compares answers with references; its `workers` processes start when first needed and end with `close()`.

    A case may take `seconds`; then its worker is ended and replaced, and the case counts as wrong. May be used from
    several threads at once.
    """

    def __init__(self, *, workers: int | None = None, seconds: float = 20.0) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers: {workers} is below 1")
        if seconds <= 0:
            raise ValueError(f"seconds: {seconds} is not above 0")
        self.workers = workers or min(os.cpu_count() or 1, 8)
        self.seconds = seconds
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._started: list[_Worker] = []
        self._lock = threading.Lock()

    def check(self, cases: Sequence[tuple[str, str]], kind: Kind) -> list[Checked]:
        """Whether each (reference answer, whole text of the model's answer) agrees, in the order of the cases.

        kind "number": the last number, or what "####", a box or "the answer is" names; "latex": what the last box or
        statement holds; "letter": the option A to E that the answer settles on. An answer may be any text: it never
        raises. Raises ValueError for an unknown kind and where math-verify is not installed.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind: {kind!r} is not one of {', '.join(get_args(Kind))}")
        if kind == "letter":
            return [_letter(gold, answer) for gold, answer in cases]
        if not cases:
            return []
        require_library()
        threads = ThreadPoolExecutor(min(self.workers, len(cases)), thread_name_prefix="math-answers")
        try:
            return list(threads.map(lambda case: self._check(case[0], case[1], kind), cases))
        finally:
            threads.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End the workers. The next check starts new ones."""
        with self._lock:
            started, self._started = self._started, []
            self._idle = queue.LifoQueue()
        for worker in started:
            worker.end()

    def __enter__(self) -> MathChecker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self, gold: str, answer: str, kind: Kind) -> Checked:
        if not answer.strip():
            return Checked(False, None, "empty answer")
        with self._worker() as worker:
            reply = worker.ask((gold, answer, kind, self.seconds + 5), self.seconds)
        if reply is None:
            return Checked(False, None, f"not compared within {self.seconds:g} s, or with the memory there is")
        return Checked(**reply)

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """A worker of one's own for one case. One that has ended is replaced at the next."""
        idle = self._idle
        try:
            worker = idle.get_nowait()
        except queue.Empty:
            worker = _Worker()
            with self._lock:
                self._started.append(worker)
        yield worker
        if worker.alive:
            idle.put(worker)
        else:
            worker.end()
            with self._lock:
                if worker in self._started:
                    self._started.remove(worker)


class _Worker:
    """One child process; `ask` it one thing at a time."""

    def __init__(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            "PYTHONIOENCODING": "utf-8",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ultrafuser.evaluation.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            encoding="utf-8",
        )
        self.alive = True
        if self._read(START_SECONDS) != "ready":
            self.end()
            raise RuntimeError(
                "the process that compares mathematical answers did not start; see what "
                f"`{sys.executable} -m ultrafuser.evaluation.math_worker` says"
            )

    def ask(self, request: tuple[str, str, str, float], seconds: float) -> dict[str, Any] | None:
        """The reply, or None when the process ended before it gave one, at the latest after `seconds`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:  # it has ended
            self.alive = False
            return None
        return self._read(seconds)

    def _read(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self.alive = False
            return None
        return json.loads(line)

    def end(self) -> None:
        """End the process and close its pipes."""
        self.alive = False
        self._process.kill()
        self._process.communicate()


def _letter(gold: str, answer: str) -> Checked:
    letter, note = final_letter(answer)
    return Checked(letter is not None and letter == gold.strip().upper(), letter, note)


def require_library() -> None:
    """Raises ValueError with the fix where math-verify is not installed."""
    missing = [name for name in ("math_verify", "antlr4") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"mathematical answers are compared with {' and '.join(missing)}, which is not installed; "
            "run: pip install 'ultrafuser[eval]'"
        )
