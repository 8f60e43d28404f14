"""The shipped chat questions as benchmark items, and as conversations with the reference answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultrafuser.data import Conversation
    from ultrafuser.evaluation.benchmark import Item

__all__ = ["CATEGORIES", "chat_items", "load_questions", "reference_talks"]

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


def load_questions(per_category: int | None = None) -> list[dict[str, Any]]:
    """The questions in the file's order, at most so many of each category.

    Each is {"question_id", "category", "turns", "reference"}, with as many answers to refer to as turns.
    """
    text = files(__package__).joinpath("questions.jsonl").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        question = json.loads(line)
        taken = sum(other["category"] == question["category"] for other in found)
        if per_category is None or taken < per_category:
            found.append(question)
    return found


def chat_items(questions: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The questions as items of the MT-Bench row of BENCHMARKS, which rates answers to them."""
    from ultrafuser.evaluation.benchmarks.mt_bench import MTBench

    return MTBench().items(questions)


def reference_talks(questions: Sequence[Mapping[str, Any]]) -> list[Conversation]:
    """The questions with their reference answers as conversations to read the loss of; domains are the categories."""
    from ultrafuser.data import Conversation

    return [
        Conversation(
            question["question_id"],
            question["category"],
            [
                {"role": role, "content": content}
                for turn, answer in zip(question["turns"], question["reference"], strict=True)
                for role, content in (("user", turn), ("assistant", answer))
            ],
        )
        for question in questions
    ]
