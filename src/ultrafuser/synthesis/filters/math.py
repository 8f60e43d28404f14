"""Final answers of mathematical responses: there is one, several samples agree on it, a reference answer agrees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ultrafuser.synthesis.filters.filter import Filter, FilterOptions, Verdicts, Work, text_of
from ultrafuser.synthesis.records import Record
from ultrafuser.synthesis.spec import Spec

if TYPE_CHECKING:
    from ultrafuser.evaluation.math_answers import MathChecker

__all__ = ["MATH", "final_answer", "groups_of_equals"]

_STATED = re.compile(
    r"(?im)^\W*(?:the\s+)?(?:final\s+)?answer\W*?(?:\s+is)?\s*[:=]\W*?(?=[\w\\$(\[{+−-])(.+)$|####\s*(.+)$"
)
_SENTENCE = re.compile(r"(?i)\b(?:final\s+)?answer\s+is:?\s+(.+?)(?:\.(?:\s|$)|\n|$)")
_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_DECORATION = re.compile(r"\\[()\[\]]|\\(?:text|mathrm)\s*\{([^{}]*)\}|[$*`]|\\,")


class MathOptions(FilterOptions):
    """Options of math."""

    final: bool = True
    """Drop responses without a final answer: a line `Answer: ...`, a box, or `####`."""
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.5
    """With `responses.samples` above 1: share of an instruction's responses that must arrive at one answer."""
    seconds: Annotated[float, Field(gt=0)] = 20.0
    """Longest time of one comparison."""


def final_answer(text: str) -> str | None:
    """The final answer that a response states last, without decoration; None where it states none."""
    ends = [(match.end(), match[1]) for match in _BOX.finditer(text)]
    ends += [(match.end(), match[1] or match[2]) for match in _STATED.finditer(text)]
    if not ends:
        ends = [(match.end(), match[1]) for match in _SENTENCE.finditer(text)]
    if not ends:
        return None
    found = max(ends)[1]
    box = _BOX.search(found)
    return _DECORATION.sub(lambda m: m[1] or "", box[1] if box else found).strip().rstrip(".").strip() or None


def groups_of_equals(answers: Sequence[str], checker: MathChecker) -> list[list[int]]:
    """Numbers of answers that are equal, as text or by math-verify; the largest group first, then by first member."""
    groups: list[list[int]] = []
    for number, answer in enumerate(answers):
        home = next((group for group in groups if _equal(answers[group[0]], answer, checker)), None)
        if home is None:
            groups.append([number])
        else:
            home.append(number)
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _equal(first: str, second: str, checker: MathChecker) -> bool:
    a, b = (" ".join(one.casefold().split()) for one in (first, second))
    if a == b:
        return True
    if not re.search(r"\d", a) or not re.search(r"\d", b):
        return False
    return checker.check([(first, f"Answer: {second}")], "number")[0].correct


def _judge(work: Work) -> Verdicts:
    from ultrafuser.evaluation.math_answers import MathChecker

    with MathChecker(workers=1, seconds=work.options.seconds) as checker:
        for instruction, records in groupby(work.records(), key=lambda record: record.parents[0]):
            yield from _of_instruction(work, work.journal.record(instruction), list(records), checker)


def _of_instruction(work: Work, instruction: Record | None, records: list[Record], checker: MathChecker) -> Verdicts:
    answers = {record.id: answer for record in records if (answer := final_answer(text_of(record))) is not None}
    if work.options.final:
        yield from ((record.id, "no final answer") for record in records if record.id not in answers)
    reference = instruction.data.get("answer") if instruction is not None else None
    if reference is not None:
        for identity, answer in answers.items():
            if not _equal(str(reference), answer, checker):
                yield identity, f"not the right answer: {answer[:40]}, right is {str(reference)[:40]}"
    elif len(records) > 1 and answers:
        yield from _disagreeing(list(answers), list(answers.values()), len(records), work.options.agreement, checker)


def _disagreeing(ids: list[str], answers: list[str], samples: int, share: float, checker: MathChecker) -> Verdicts:
    groups = groups_of_equals(answers, checker)
    most = groups[0]
    tied = len(groups) > 1 and len(groups[1]) == len(most)
    if tied or len(most) < 2 or len(most) < share * samples:
        told = ", ".join(f"{answers[group[0]][:30]} ({len(group)})" for group in groups[:3])
        yield from ((identity, f"samples do not agree: {told}") for identity in ids)
        return
    for group in groups[1:]:
        yield from (
            (ids[n], f"differs from most samples: {answers[n][:40]}, most say {answers[most[0]][:40]}") for n in group
        )


def _ready(spec: Spec, options: MathOptions) -> None:
    from ultrafuser.evaluation.math_answers import require_library

    require_library()


MATH = Filter(
    name="math",
    summary="has no final answer, or one that other samples or the reference contradict",
    steps=("responses",),
    judge=_judge,
    options=MathOptions,
    by_checks=True,
    ready=_ready,
)
