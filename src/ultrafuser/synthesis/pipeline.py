"""The pipeline: plans each round of each step from what was made before, has it asked, and stops where it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ultrafuser.synthesis.domain import domains_print, open_domains
from ultrafuser.synthesis.engine import Engine, Stopped
from ultrafuser.synthesis.journal import Journal, Planned, Settled
from ultrafuser.synthesis.records import Ask
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps import STEPS, Step

__all__ = ["Pipeline", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: the step, its round, and the answer that came last (None when the round begins)."""

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
        self.print = spec.plan_print(domains_print(self.domains))
        self._on_progress = on_progress
        self._at = Progress("", 0, 0)
        self.engine = Engine(spec, journal, on_answer=self._answered)

    def run(self, *, review: bool = True) -> Stopped | None:
        """Go through all steps; None when everything is made, else why not. `review` False passes review by."""
        try:
            for step in STEPS.values():
                stopped = self._step(step)
                if stopped is not None:
                    return stopped
        finally:
            self.engine.close()
        return None

    def _step(self, step: Step) -> Stopped | None:
        for round_ in range(self._rounds(step)):
            asked = self._plan(step, round_)
            self._at = Progress(step.name, round_, asked)
            self._on_progress(self._at)
            stopped = self.engine.run(step)
            if stopped is not None:
                return stopped
        return None

    def _rounds(self, step: Step) -> int:
        return max(step.rounds(self.spec, domain) for domain in self.domains)

    def _plan(self, step: Step, round_: int) -> int:
        """Plan a round that is not planned yet; all that was planned on top of it goes out of the plan."""
        stage = f"{step.name}:{round_}"
        if self.journal.stage(stage) == self.print:
            return 0
        self._retire(step, round_)
        return self.journal.plan(step.name, round_, self._asks(step, round_), self.spec.seed, self.print)

    def _retire(self, step: Step, round_: int) -> None:
        names = list(STEPS)
        self.journal.retire(step.name, round_)
        for later in names[names.index(step.name) + 1 :]:
            self.journal.retire(later)

    def _asks(self, step: Step, round_: int) -> Iterator[tuple[str, Ask]]:
        for domain in self.domains:
            if round_ < step.rounds(self.spec, domain):
                for ask in step.requests(self.spec, domain, self.journal, round_):
                    yield domain.name, ask

    def _answered(self, planned: Planned, settled: Settled) -> None:
        self._on_progress(Progress(self._at.step, self._at.round, self._at.asked, planned, settled))
