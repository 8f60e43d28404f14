"""Multiple-choice mathematics: SAT-Math and AQuA-RAT, answered by a letter."""

from __future__ import annotations

import re

from ultrafuser.evaluation.benchmark import Record, Source
from ultrafuser.evaluation.benchmarks.problems import ProblemBenchmark

__all__ = ["AQuA", "SATMath"]

_LABEL = re.compile(r"\(?([A-E])\)\s*")


class MultipleChoice(ProblemBenchmark):
    """The question, its options, one to a line, and a line of ours that asks for the letter.

    An answer that gives an option's value but no letter is wrong, as is one that settles on two letters.
    """

    kind = "letter"

    def prompt(self, record: Record) -> str:
        """Question, options and the request for a letter."""
        options = "\n".join(_LABEL.sub(r"(\1) ", option.strip(), count=1) for option in record["options"])
        return f"{str(record['question']).strip()}\n{options}\n\nAnswer with the letter of the right option."

    def right_answer(self, record: Record) -> str:
        """The letter. ValueError where it is not that of an option."""
        letters = "ABCDE"[: len(record["options"])]
        if record["correct"] not in list(letters):
            raise ValueError(f"correct: {record['correct']!r} is not one of {', '.join(letters)}")
        return str(record["correct"])


def _sat_from_hub(record: Record) -> Record:
    question = str(record["query"]).removeprefix("Q:").rpartition("Answer Choices:")[0].strip()
    return {"question": question, "options": record["choices"], "correct": "ABCDE"[record["gold"][0]]}


class SATMath(MultipleChoice):
    """The mathematics part of AGIEval's SAT questions: four options."""

    name = "sat_math"
    title = "SAT-Math"
    source = Source(
        file="sat_math",
        required=("question", "options", "correct"),
        hub_id="hails/agieval-sat-math",
        adapt=_sat_from_hub,
        licence="MIT",
    )
    reference = "Zhong et al. 2023, arXiv 2304.06364"


class AQuA(MultipleChoice):
    """Algebraic word problems with five options."""

    name = "aqua"
    title = "AQuA-RAT"
    source = Source(
        file="aqua_test",
        required=("question", "options", "correct"),
        hub_id="deepmind/aqua_rat",
        hub_config="raw",
        licence="Apache-2.0",
    )
    reference = "Ling et al. 2017, arXiv 1705.04146"
