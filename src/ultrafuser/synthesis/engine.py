"""The engine: asks what waits in the journal, many requests at a time over several endpoints, within a budget.

One thread reads the plan and writes the journal; every request under way has a worker thread. It knows steps only as
the function that reads a reply.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from ultrafuser.endpoint import EndpointError, RejectedError, Reply
from ultrafuser.synthesis.budget import Meter
from ultrafuser.synthesis.endpoints import Line, Lines
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import Reject
from ultrafuser.synthesis.rows import Planned, Settled
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps import Step
from ultrafuser.synthesis.steps.step import dice

__all__ = ["Engine", "Stopped"]

CHUNK = 256  # requests read from the journal at a time
AHEAD = 1.5  # requests handed out per worker, so that none waits while answers are written
TRIES = 3  # of a request that gets no answer at all, before it is left for the next run
LISTENING = 0.5  # seconds between looks at the signal to stop


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why a step is not complete: "budget", "endpoints", "unanswered" or "interrupted", and what to tell the user."""

    kind: str
    message: str


@dataclass(slots=True)
class _Task:
    planned: Planned
    tries: int = 0
    trouble: str = ""


class Engine:
    """Runs the requests of steps. `stop`, once set, lets those under way end and begins no other. `leave_out` gives up
    requests that get no answer, which otherwise wait for the next run.

    `on_answer` is called after every answer with the request and what it came to.
    """

    def __init__(
        self, spec: Spec, journal: Journal, *, on_answer: Callable[[Planned, Settled], None] = lambda p, s: None
    ) -> None:
        self.spec, self.journal = spec, journal
        self.stop = threading.Event()
        self.leave_out = False
        self.meter = Meter(spec, journal.spent())
        self._on_answer = on_answer
        self._lines = Lines(spec)

    def close(self) -> None:
        """Close the endpoints' connections."""
        self._lines.close()

    def run(self, step: Step) -> Stopped | None:
        """Ask everything of a step that waits for an answer; None when nothing is left."""
        return _Run(self, step).run()


class _Run:
    """One step's requests."""

    def __init__(self, engine: Engine, step: Step) -> None:
        self.engine, self.step = engine, step
        self.spec, self.journal = engine.spec, engine.journal
        self.inbox: SimpleQueue[_Task | None] = SimpleQueue()
        self.outbox: SimpleQueue[tuple[_Task, Line, Reply | Exception]] = SimpleQueue()
        self.ready: deque[_Task] = deque()
        self.left: list[_Task] = []
        self.under_way = 0
        self.after = -1
        self.lines = engine._lines
        self.lost: Exception | None = None

    def run(self) -> Stopped | None:
        self._read_on()
        if not self.ready:
            return None
        for line in self.lines.open():
            for _ in range(line.endpoint.concurrency):
                threading.Thread(target=self._work, args=(line,), daemon=True).start()
        try:
            stopped = self._loop()
        finally:
            for _ in range(self.lines.size):
                self.inbox.put(None)
        if stopped is None and self.left:
            reasons = sorted({task.trouble for task in self.left})
            told = f"{len(self.left)} requests got no answer ({'; '.join(reasons)[:300]})"
            stopped = Stopped("unanswered", told)
        return stopped

    def _loop(self) -> Stopped | None:
        while True:
            stopped = self._halted()
            if stopped is None:
                self._send()
                if not self.under_way:
                    return self._capped() if self.ready else None
            elif not self.under_way:
                return stopped
            try:
                task, line, outcome = self.outbox.get(timeout=LISTENING)
            except Empty:
                continue
            self.under_way -= 1
            self._take(task, line, outcome)

    def _halted(self) -> Stopped | None:
        if self.engine.stop.is_set():
            return Stopped("interrupted", "stopped")
        if not self.lines.usable:
            return Stopped("endpoints", str(self.lost))
        return None

    def _read_on(self) -> None:
        rows = self.journal.waiting(self.step.name, self.after, CHUNK)
        self.ready.extend(_Task(planned) for _, planned in rows)
        if rows:
            self.after = rows[-1][0]

    def _send(self) -> None:
        """Hand out as many requests as keep all workers busy, and as the budget allows."""
        while self.under_way < self.lines.size * AHEAD:
            if not self.ready:
                self._read_on()
            if not self.ready or not self.engine.meter.reserve(self.ready[0].planned):
                return
            self.under_way += 1
            self.inbox.put(self.ready.popleft())

    def _capped(self) -> Stopped:
        return Stopped("budget", self.engine.meter.cap(self.ready[0].planned))

    def _work(self, line: Line) -> None:
        while (task := self.inbox.get()) is not None:
            if not line.usable and self.lines.usable:
                self.inbox.put(task)  # for another endpoint
                return
            try:
                if self.engine.stop.is_set():
                    raise EndpointError("stopped")
                outcome: Reply | Exception = line.ask(self._request(task.planned, line), self.engine.stop)
            except Exception as error:
                outcome = error
            if not self.engine.stop.is_set():
                line.note(task.planned.key, outcome)
            self.outbox.put((task, line, outcome))

    def _request(self, planned: Planned, line: Line) -> Any:
        seed = dice(self.spec, planned.key, planned.attempts).randrange(2**31)
        schema = self.step.schema if line.endpoint.structured else None
        if schema is not None:
            items = {**schema, "minItems": 1, "maxItems": planned.note["count"]}
            schema = {
                "type": "object", "properties": {"items": items}, "required": ["items"], "additionalProperties": False,
            }  # fmt: skip
        return replace(planned.ask.request, seed=seed, schema=schema)

    def _take(self, task: _Task, line: Line, outcome: Reply | Exception) -> None:
        """Write what came back, or put the request back."""
        self.engine.meter.release(task.planned)
        if isinstance(outcome, Reply):
            self._settle(task, outcome, self._read(task.planned, outcome, line))
        elif isinstance(outcome, RejectedError):
            self._settle(task, None, Settled(reason=str(outcome), endpoint=line.name, model=line.model))
        elif isinstance(outcome, EndpointError):
            self._again(task, outcome)
        else:
            raise outcome

    def _again(self, task: _Task, error: EndpointError) -> None:
        self.lost = error
        if self.engine.stop.is_set():
            return
        task.tries += 1
        task.trouble = str(error)
        if task.tries < TRIES:
            self.ready.append(task)
        elif self.engine.leave_out:
            self._settle(task, None, Settled(reason=f"no answer: {error}"))
        else:
            self.left.append(task)

    def _read(self, planned: Planned, reply: Reply, line: Line) -> Settled:
        found = self.step.accept(reply, planned.ask)
        settled = Settled(spent=line.cost(reply), endpoint=line.name, model=line.model)
        if not isinstance(found, Reject):
            return replace(settled, made=found)
        if planned.attempts + 1 < self.spec.attempts:
            return replace(settled, reason=found.reason, again=True)
        return replace(settled, made=found.salvage, reason=found.reason)

    def _settle(self, task: _Task, reply: Reply | None, settled: Settled) -> None:
        self.journal.settle(task.planned, reply, settled)
        self.engine.meter.spend(settled.spent)
        if settled.again:
            self.ready.append(_Task(replace(task.planned, attempts=task.planned.attempts + 1)))
        self.engine._on_answer(task.planned, settled)
