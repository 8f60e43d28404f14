"""The pipeline: plans each round of each step from what was made before, has it asked, and stops where it must."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ultrafuser.synthesis.domain import domains_print, open_domains
from ultrafuser.synthesis.engine import Engine, Stopped
from ultrafuser.synthesis.filters import apply_filter, check_filters, chosen_filters, restore, write_report
from ultrafuser.synthesis.filters import content_print as read_print
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import Ask
from ultrafuser.synthesis.review import apply_review, content_print, file_of, read_review, write_review
from ultrafuser.synthesis.rows import Planned, Settled
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps import STEPS, Step

__all__ = ["Pipeline", "Progress", "restart_after"]

BY_HAND = "hand-"  # how ids of records begin that a person added


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: step, round, requests of the round, and the answer that came last (None as it begins)."""

    step: str
    round: int
    asked: int
    planned: Planned | None = None
    settled: Settled | None = None


class Pipeline:
    """A run in an output folder. Started again, it goes on where it was; a changed spec keeps what still fits it."""

    def __init__(self, spec: Spec, journal: Journal, on_progress: Callable[[Progress], None] = lambda p: None) -> None:
        self.spec, self.journal = spec, journal
        self.domains = open_domains(spec)
        check_filters(spec, self.domains)
        self.print = spec.plan_print(domains_print(self.domains))
        self.filters_print = f"{self.print} {read_print(spec)}"
        self._on_progress = on_progress
        self._at = Progress("", 0, 0)
        self.engine = Engine(spec, journal, on_answer=self._answered)

    def run(self, *, review: bool = True) -> Stopped | None:
        """Go through all steps; None when everything is made, else why not. `review` False does not stop for it."""
        try:
            with self.journal.only_writer():
                for step in STEPS.values():
                    stopped = self._step(step) or self._filter(step) or self._review(step, stop=review)
                    if stopped is not None:
                        return stopped
                if self.spec.filters:
                    write_report(self.spec, self.domains, self.journal)
        finally:
            self.engine.close()
        return None

    def _step(self, step: Step) -> Stopped | None:
        for round_ in range(max(step.rounds(self.spec, domain) for domain in self.domains)):
            asked = self._plan(step, round_)
            self._at = Progress(step.name, round_, asked)
            self._on_progress(self._at)
            stopped = self.engine.run(step)
            if stopped is not None:
                return stopped
        return None

    def _plan(self, step: Step, round_: int) -> int:
        """Plan a round that is not planned yet; all that was planned on top of it goes out of the plan."""
        if self.journal.stage(f"{step.name}:{round_}") == self.print:
            return 0
        self.journal.retire(step.name, round_)
        restart_after(self.journal, step.name)
        asked = self.journal.plan(step.name, round_, self._asks(step, round_), self.spec.seed, self.print)
        restore(self.journal, step.name)  # what is found again may have been filtered under another plan
        return asked

    def _asks(self, step: Step, round_: int) -> Iterator[tuple[str, Ask]]:
        for domain in self.domains:
            if round_ < step.rounds(self.spec, domain):
                for ask in step.requests(self.spec, domain, self.journal, round_):
                    yield domain.name, ask

    def _filter(self, step: Step) -> Stopped | None:
        stage = f"{step.name}:filters"
        if self.journal.stage(stage) == self.filters_print:
            return None
        if self.journal.stage(stage) is not None:
            restart_after(self.journal, step.name)
        restore(self.journal, step.name)
        for row, work in chosen_filters(self.spec, self.domains, self.journal, step.name):
            stopped = self._asked(row.asks(work), work.options) if row.asks is not None else None
            if stopped is not None:
                return stopped
            apply_filter(row, work)
        self.journal.complete(stage, self.filters_print)
        return None

    def _asked(self, step: Step, options: Any) -> Stopped | None:
        """Have a filter's own requests made, by its endpoints where it has some."""
        stage = f"{step.name}:0"
        if self.journal.stage(stage) != self.print:
            self.journal.retire(step.name)
            self.journal.plan(step.name, 0, self._asks(step, 0), self.spec.seed, self.print)
        if options.endpoints is None:
            return self.engine.run(step)
        judged = self.spec.model_copy(update={"endpoints": options.endpoints})
        engine = Engine(judged, self.journal, on_answer=self._answered)
        engine.stop = self.engine.stop
        try:
            return engine.run(step)
        finally:
            engine.close()
            self.engine.meter.spent = self.journal.spent()

    def _review(self, step: Step, *, stop: bool) -> Stopped | None:
        """Read a review file that belongs to what was made; write one and stop where there is none."""
        if step.name not in self.spec.review:
            return None
        made = [record.id for record in self.journal.records(step.name, rejected=True)]
        shown = json.dumps(sorted(identity for identity in made if not identity.startswith(BY_HAND)))
        file = file_of(self.journal, step.name)
        if file.is_file() and self.journal.stage(f"shown:{step.name}") == shown:
            self._take_review(step)
            return None
        if not stop:
            return None
        if file.is_file():
            file.replace(file.with_name(f"{step.name}.before.yaml"))
        write_review(self.journal, self.domains, step.name)
        self.journal.complete(f"shown:{step.name}", shown)
        return Stopped("review", f"{file} lists what was made: edit it or leave it, then run again")

    def _take_review(self, step: Step) -> None:
        now = content_print(self.journal, step.name)
        if self.journal.stage(f"{step.name}:review") == now:
            return
        changes = read_review(self.journal, step.name)
        apply_review(self.journal, step.name, changes)
        if changes.any:
            restart_after(self.journal, step.name)
        self.journal.complete(f"{step.name}:review", now)

    def _answered(self, planned: Planned, settled: Settled) -> None:
        self._on_progress(replace(self._at, planned=planned, settled=settled))


def restart_after(journal: Journal, step: str) -> None:
    """What was planned after a step is planned again; answers to the same requests are found again."""
    names = list(STEPS)
    later = names[names.index(step) + 1 :]
    journal.forget([f"{step}:filters", f"{step}:review", f"{step}/"])
    journal.forget(f"{name}{mark}" for name in later for mark in ":/")
    for name in later:
        journal.retire(name)
