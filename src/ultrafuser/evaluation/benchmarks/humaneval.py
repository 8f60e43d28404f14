"""HumanEval, in its own form, as instructions, and with the tests of HumanEval+: a Python function to write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ultrafuser.evaluation.benchmark import Answer, Benchmark, Item, Record, Source, Verdict
from ultrafuser.evaluation.benchmarks.code_extraction import extract_program
from ultrafuser.evaluation.benchmarks.code_grading import METRIC, grade_programs

if TYPE_CHECKING:
    from ultrafuser.evaluation.sandbox import Program
    from ultrafuser.evaluation.tools import Tools

__all__ = ["HumanEval", "HumanEvalPlus", "InstructHumanEval"]

_FIELDS = ("task_id", "entry_point", "test")


class HumanEval(Benchmark):
    """The beginning of a function is shown; the answer is the whole function, or its body."""

    name = "humaneval"
    title = "HumanEval"
    domain = "code"
    metric = METRIC
    source = Source(file="humaneval", required=(*_FIELDS, "prompt"), hub_id="openai/openai_humaneval", licence="MIT")
    reference = "Chen et al. 2021, arXiv 2107.03374"
    uses = ("sandbox",)
    max_new_tokens = 768

    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """One item per record."""
        return [Item(str(record["task_id"]), record, turns=(self.prompt(record),)) for record in records]

    def grade(self, pairs: Sequence[tuple[Item, Answer]], tools: Tools) -> list[Verdict]:
        """Run each answer's program with the record's tests."""
        return grade_programs([self.program(item.record, answer) for item, answer in pairs], tools)

    def prompt(self, record: Record) -> str:
        """The function's beginning in a block, and what is wanted."""
        return (
            "Complete this Python function so that it does what its docstring says. "
            "Answer with the complete function in one Python code block.\n\n"
            f"```python\n{str(record['prompt']).strip()}\n```"
        )

    def beginning(self, record: Record) -> str:
        """The program's beginning, up to the body that is asked for."""
        return str(record["prompt"])

    def program(self, record: Record, answer: Answer) -> Program:
        """The program in the answer, with the tests that the record has for it."""
        from ultrafuser.evaluation.sandbox import Program

        name = str(record["entry_point"])
        text = answer.texts[-1] if answer.texts else ""
        return Program(
            extract_program(text, name, self.beginning(record)), tests=f"{record['test']}\n\ncheck({name})\n"
        )


class HumanEvalPlus(HumanEval):
    """The same tasks with about 80 times as many tests.

    HumanEval/32 is left out: its tests, in this form, fail the task's own reference solution.
    """

    name = "humaneval_plus"
    title = "HumanEval+"
    source = Source(
        file="humaneval_plus", required=(*_FIELDS, "prompt"), hub_id="evalplus/humanevalplus", licence="Apache-2.0"
    )
    reference = "Liu et al. 2023, arXiv 2305.01210"
    left_out = frozenset({"HumanEval/32"})

    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """One item per record but for `left_out`."""
        return super().items([record for record in records if record["task_id"] not in self.left_out])


def _from_hub(record: Record) -> Record:
    """There, `context` ends before the function; here it ends with the function's first line."""
    return {**record, "context": record["prompt"]}


class InstructHumanEval(HumanEval):
    """The tasks told as instructions: the paper's form."""

    name = "instruct_humaneval"
    title = "HumanEval (instructions)"
    source = Source(
        file="instruct_humaneval",
        required=(*_FIELDS, "instruction", "context"),
        hub_id="codeparrot/instructhumaneval",
        adapt=_from_hub,
        licence="MIT",
    )
    reference = "codeparrot/instructhumaneval, after Chen et al. 2021, arXiv 2107.03374"

    def prompt(self, record: Record) -> str:
        """The instruction as it is."""
        return str(record["instruction"]).strip()

    def beginning(self, record: Record) -> str:
        """Imports and helpers that the instruction does not show, and the function's first line."""
        return str(record["context"])
