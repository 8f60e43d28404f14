"""MATH: competition problems, answered by an expression."""

from __future__ import annotations

from ultrafuser.evaluation.benchmark import Record, Source
from ultrafuser.evaluation.benchmarks.problems import ProblemBenchmark

__all__ = ["MATH"]


def _from_hub(record: Record) -> Record:
    return {
        "id": record["unique_id"],
        "question": record["problem"],
        "solution": record["solution"],
        "answer": record["answer"],
        "subject": record["subject"],
        "level": record["level"],
    }


class MATH(ProblemBenchmark):
    """The problem, then one line of ours that asks for the answer in a box, as the reference solutions have it.

    From the Hub it is the subset of 500 problems of Lightman et al. (arXiv 2305.20050), known as MATH-500.
    """

    name = "math"
    title = "MATH"
    kind = "latex"
    max_new_tokens = 1024
    source = Source(
        file="math_test",
        required=("question", "answer", "subject"),
        hub_id="HuggingFaceH4/MATH-500",
        adapt=_from_hub,
        licence="MIT (hendrycks/math); the problems stem from competitions",
    )
    reference = "Hendrycks et al. 2021, arXiv 2103.03874"

    def prompt(self, record: Record) -> str:
        """The problem and the request for a box."""
        return f"{str(record['question']).strip()}\n\nWrite the final answer in \\boxed{{}}."

    def group(self, record: Record) -> str:
        """Algebra, Geometry, ...: the seven subjects."""
        return str(record["subject"])
