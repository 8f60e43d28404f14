"""MBPP: small Python functions told in a sentence, with three assertions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ultrafuser.evaluation.benchmark import Answer, Benchmark, Item, Record, Source, Verdict
from ultrafuser.evaluation.benchmarks.code_extraction import called_name, extract_program
from ultrafuser.evaluation.benchmarks.code_grading import METRIC, grade_programs

if TYPE_CHECKING:
    from ultrafuser.evaluation.sandbox import Program
    from ultrafuser.evaluation.tools import Tools

__all__ = ["MBPP"]


class MBPP(Benchmark):
    """The task and its assertions are shown, as is usual without examples: they name the function."""

    name = "mbpp"
    title = "MBPP"
    domain = "code"
    metric = METRIC
    source = Source(
        file="mbpp_test",
        required=("task_id", "text", "test_list"),
        hub_id="google-research-datasets/mbpp",
        hub_config="full",
        licence="CC BY 4.0",
    )
    reference = "Austin et al. 2021, arXiv 2108.07732"
    uses = ("sandbox",)
    max_new_tokens = 768

    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """One item per record."""
        return [Item(f"MBPP/{record['task_id']}", record, turns=(self.prompt(record),)) for record in records]

    def grade(self, pairs: Sequence[tuple[Item, Answer]], tools: Tools) -> list[Verdict]:
        """Run each answer's program, then the set-up, then the assertions."""
        return grade_programs([self.program(item.record, answer) for item, answer in pairs], tools)

    def prompt(self, record: Record) -> str:
        """The task, the assertions, and what is wanted."""
        tests = "\n".join(map(str, record["test_list"]))
        return (
            f"{str(record['text']).strip()}\n\nThe code must pass these tests:\n```python\n{tests}\n```\n\n"
            "Answer with the code in one Python code block."
        )

    def program(self, record: Record, answer: Answer) -> Program:
        """The program in the answer, with the record's assertions as tests."""
        from ultrafuser.evaluation.sandbox import Program

        tests = list(map(str, record["test_list"]))
        name = next(filter(None, map(called_name, tests)), None)
        text = answer.texts[-1] if answer.texts else ""
        return Program(
            extract_program(text, name), tests="\n".join([str(record.get("test_setup_code") or ""), *tests]) + "\n"
        )
