"""SVAMP: word problems of one step, worded so that superficial reading fails."""

from __future__ import annotations

from ultrafuser.evaluation.benchmark import Record, Source
from ultrafuser.evaluation.benchmarks.problems import ProblemBenchmark

__all__ = ["SVAMP"]


def _from_hub(record: Record) -> Record:
    return {
        "id": record["ID"],
        "body": record["Body"],
        "question": record["Question"],
        "equation": record["Equation"],
        "answer": float(record["Answer"]),
        "type": record["Type"],
    }


class SVAMP(ProblemBenchmark):
    """The body, ended by the full stop that many lack, and the question.

    The Hub's copy splits the 1,000 published problems in two; both parts together are the benchmark.
    """

    name = "svamp"
    title = "SVAMP"
    kind = "number"
    max_new_tokens = 256
    source = Source(
        file="svamp",
        required=("body", "question", "answer"),
        hub_id="ChilleD/SVAMP",
        hub_split="train+test",
        adapt=_from_hub,
        licence="MIT",
    )
    reference = "Patel et al. 2021, arXiv 2103.07191"

    def prompt(self, record: Record) -> str:
        """Body and question in one paragraph."""
        body = str(record["body"]).strip()
        return f"{body if body.endswith(('.', '!', '?')) else body + '.'} {str(record['question']).strip()}"

    def right_answer(self, record: Record) -> str:
        """The number without the ".0" of the file."""
        return f"{float(record['answer']):.12g}"

    def group(self, record: Record) -> str | None:
        """The operation: Addition, Subtraction, Multiplication, Common-Division."""
        return record.get("type")
