"""GSM8K: word problems of grade school, answered by a number."""

from __future__ import annotations

from ultrafuser.evaluation.benchmark import Record, Source
from ultrafuser.evaluation.benchmarks.problems import ProblemBenchmark

__all__ = ["GSM8K"]


def _from_hub(record: Record) -> Record:
    solution, _, answer = str(record["answer"]).rpartition("####")
    return {"question": record["question"], "solution": solution.strip(), "answer": answer.strip().replace(",", "")}


class GSM8K(ProblemBenchmark):
    """The question as it is, without any instruction: the number is found by what the answer says of it."""

    name = "gsm8k"
    title = "GSM8K"
    kind = "number"
    source = Source(
        file="gsm8k_test",
        required=("question", "answer"),
        hub_id="openai/gsm8k",
        hub_config="main",
        adapt=_from_hub,
        licence="MIT",
    )
    reference = "Cobbe et al. 2021, arXiv 2110.14168"

    def prompt(self, record: Record) -> str:
        """The question."""
        return str(record["question"]).strip()
