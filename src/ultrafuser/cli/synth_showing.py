"""How `ultrafuser synth` shows plans, progress and what was made."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ultrafuser.cli.reproduce_verb import duration

if TYPE_CHECKING:
    from ultrafuser.synthesis.estimate import Expected
    from ultrafuser.synthesis.journal import Journal
    from ultrafuser.synthesis.pipeline import Progress
    from ultrafuser.synthesis.spec import Spec

__all__ = ["ProgressLines", "plan_lines", "plan_table", "spent_line", "status_table", "summary"]

SECONDS_BETWEEN = 5.0
RECENT = 200  # answers that the rate is taken over


class ProgressLines:
    """A line when a round begins and every few seconds after: answers, rate, what it has cost, time left."""

    def __init__(self, console: Console, spec: Spec, journal: Journal) -> None:
        from ultrafuser.synthesis import open_domains
        from ultrafuser.synthesis.estimate import estimate

        self._console = console
        self._expected = sum(row.requests for row in estimate(spec, open_domains(spec)))
        self._spent = journal.spent()
        self._priced = any(one.input_price or one.output_price for one in spec.endpoints)
        self._times: deque[float] = deque(maxlen=RECENT)
        self._said = 0.0
        self._answers = self._again = self._left_out = 0
        self._at: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Take note of an answer, or of a round that begins."""
        if progress.settled is None:
            self.close()
            if progress.asked:
                self._print(f"{progress.step}, round {progress.round + 1}: {progress.asked} requests")
            return
        now = time.monotonic()
        self._at = progress
        self._times.append(now)
        self._spent += progress.settled.spent
        self._answers += 1
        self._again += progress.settled.again
        self._left_out += progress.settled.reason is not None and not progress.settled.again
        if now - self._said >= SECONDS_BETWEEN:
            self._say(now)

    def close(self) -> None:
        """Say how the round ended, where it had answers."""
        if self._answers:
            self._say(time.monotonic())
        self._answers = self._again = self._left_out = 0

    def _say(self, now: float) -> None:
        assert self._at is not None
        self._said = now
        parts = [f"{self._at.step}: {self._answers} answers"]
        if self._again:
            parts.append(f"{self._again} asked again")
        if self._left_out:
            parts.append(f"{self._left_out} unusable")
        span = self._times[-1] - self._times[0]
        if len(self._times) > 1 and span > 0:
            rate = (len(self._times) - 1) / span
            parts.append(f"{rate:.1f}/s")
            left = self._expected - self._spent.requests
            if left > 0:
                parts.append(f"about {duration(left / rate)} left")
        parts.append(f"{self._spent.tokens:,} tokens")
        if self._priced:
            parts.append(f"cost {self._spent.cost:.4f}")
        self._print("  " + ", ".join(parts))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def plan_table(spec: Spec, rows: Sequence[Expected]) -> Table:
    """Requests, records, tokens and cost by domain and step."""
    table = Table(box=None, pad_edge=False)
    for heading in ("domain", "step"):
        table.add_column(heading)
    for heading in ("requests", "records", "prompt tokens", "reply tokens", "cost"):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.requests:
            numbers = (row.requests, row.records, row.prompt_tokens, row.completion_tokens)
            table.add_row(row.domain, row.step, *(f"{number:,}" for number in numbers), f"{row.cost:.4f}")
    table.add_section()
    totals = [sum(getattr(row, name) for row in rows) for name in ("requests", "prompt_tokens", "completion_tokens")]
    cost = sum(row.cost for row in rows)
    table.add_row("all", "", f"{totals[0]:,}", "", f"{totals[1]:,}", f"{totals[2]:,}", f"{cost:.4f}")
    return table


def plan_lines(spec: Spec, rows: Sequence[Expected]) -> list[str]:
    """What else a plan should say: conversations, where figures come from, rate limits, caps in the way."""
    conversations = sum(row.records for row in rows if row.step == "responses") // spec.responses.samples
    requests, cost = sum(row.requests for row in rows), sum(row.cost for row in rows)
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    lines = [f"about {conversations:,} conversations, if every reply is usable; replies that are not cost more"]
    if any(row.measured for row in rows):
        lines.append("tokens of steps that have answers are means of those")
    limits = [endpoint.requests_per_minute for endpoint in spec.endpoints]
    if all(limit is not None for limit in limits):
        minutes = requests / sum(limit for limit in limits if limit is not None)
        lines.append(f"at the rate limits of the endpoints: at least {duration(60 * minutes)}")
    for name, used in (("requests", requests), ("tokens", tokens), ("money", cost)):
        cap = getattr(spec.budget, name)
        if cap is not None and used > cap:
            lines.append(f"budget.{name}: the cap of {cap:,} will stop it before the end")
    return lines


def summary(spec: Spec, journal: Journal) -> dict[str, Any]:
    """What a run has made so far, as plain data."""
    from ultrafuser.synthesis.steps import STEPS

    spent = journal.spent()
    return {
        "name": spec.name,
        "output": str(spec.output_folder),
        "steps": {step: journal.counts(step) for step in STEPS},
        "removed": {step: by for step in STEPS if (by := journal.removed(step))},
        "answered": spent.requests,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "cost": spent.cost,
    }


def status_table(found: Mapping[str, Any]) -> Table:
    """Requests and records by step and domain."""
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "domain"):
        table.add_column(heading)
    names = ("waiting", "answered", "unusable", "kept", "edited", "rejected")
    for heading in (*names, "yield"):
        table.add_column(heading, justify="right")
    table.add_column("rejected by")
    for step, domains in found["steps"].items():
        for domain, counts in domains.items():
            kept = counts.get("kept", 0) + counts.get("edited", 0)
            made = kept + counts.get("rejected", 0)
            by = found["removed"].get(step, {}).get(domain, {})
            told = ", ".join(f"{name} {number}" for name, number in by.items())
            numbers = (f"{counts.get(name, 0):,}" for name in names)
            table.add_row(step, domain, *numbers, f"{kept / made:.0%}" if made else "", told)
    return table


def spent_line(found: Mapping[str, Any]) -> str:
    """What was used."""
    return (
        f"{found['answered']:,} requests answered, {found['prompt_tokens']:,} prompt tokens and "
        f"{found['completion_tokens']:,} reply tokens, cost {found['cost']:.4f}"
    )
