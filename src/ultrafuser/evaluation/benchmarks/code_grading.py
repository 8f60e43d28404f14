"""Programs made of answers, run in the sandbox: what came of them as verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ultrafuser.evaluation.benchmark import Verdict

if TYPE_CHECKING:
    from ultrafuser.evaluation.sandbox import Program
    from ultrafuser.evaluation.tools import Tools

__all__ = ["METRIC", "grade_programs"]

METRIC = "pass@1"


def grade_programs(programs: Sequence[Program], tools: Tools) -> list[Verdict]:
    """One verdict per program, 1 where it passed its tests; an empty one fails without being run."""
    waiting = [program for program in programs if program.source.strip()]
    outcomes = iter(tools.sandbox.run(waiting) if waiting else ())
    verdicts = []
    for program in programs:
        if not program.source.strip():
            verdicts.append(Verdict({METRIC: 0.0}, extracted="", note="no code in the answer"))
            continue
        outcome = next(outcomes)
        note = f"{outcome.status}: {outcome.error}" if outcome.error else outcome.status
        verdicts.append(
            Verdict(
                {METRIC: float(outcome.passed)},
                extracted=program.source,
                note="" if outcome.passed else note,
                detail={"status": outcome.status, "run_seconds": round(outcome.seconds, 3)},
            )
        )
    return verdicts
