"""MT-Bench: two turns in eight categories, each answer rated by a judge from 1 to 10."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from ultrafuser.evaluation.benchmark import Answer, Benchmark, Item, Record, Source, Verdict
from ultrafuser.evaluation.judges import Rated, Rating
from ultrafuser.evaluation.tools import Tools

__all__ = ["MTBench"]

_WITH_REFERENCE = frozenset({"coding", "math", "reasoning"})  # categories that have right answers
_TURN_METRICS = ("rating_first_turn", "rating_second_turn")


def _from_hub(record: Record) -> Record:
    """A record of HuggingFaceH4/mt_bench_prompts, whose `reference` is empty where there is none."""
    return {
        "question_id": record["prompt_id"],
        "category": record["category"],
        "turns": list(record["prompt"]),
        "gpt4_reference": list(record["reference"] or ()) or None,
    }


class MTBench(Benchmark):
    """Mean rating of both turns. The judge sees right answers to coding, math and reasoning questions.

    An answer without a rating leaves its item without a score, and is flagged.
    """

    name = "mt_bench"
    title = "MT-Bench"
    domain = "chat"
    metric = "rating"
    reference = "Zheng et al., 2023, Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena"
    max_new_tokens = 1024
    uses = ("judge", "rating")
    source = Source(
        file="mt_bench",
        required=("question_id", "category", "turns"),
        hub_id="HuggingFaceH4/mt_bench_prompts",
        hub_split="train",
        adapt=_from_hub,
        licence="Apache-2.0",
    )

    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """One item per question, with its turns, grouped by category."""
        return [
            Item(
                id=f"mt_bench/{record['question_id']}",
                record=record,
                turns=tuple(record["turns"]),
                group=record["category"],
            )
            for record in records
        ]

    def grade(self, pairs: Sequence[tuple[Item, Answer]], tools: Tools) -> list[Verdict]:
        """The judge's ratings. Raises ValueError for a judge that cannot rate."""
        if tools.judge is None or not tools.judge.rates:
            kind = "no judge is given" if tools.judge is None else f"{tools.judge.name} only compares"
            raise ValueError(f"mt_bench needs a judge that rates, and {kind}; give --judge URL --judge-model NAME")
        cases = [case for item, answer in pairs for case in _cases(item, answer)]
        ratings = iter(tools.judge.rate(cases))
        return [_verdict(answer, [next(ratings) for _ in item.turns]) for item, answer in pairs]


def _cases(item: Item, answer: Answer) -> list[Rated]:
    """One case per turn, each with the conversation up to it; a missing answer is an empty one."""
    texts = (*answer.texts, *[""] * len(item.turns))[: len(item.turns)]
    references = _references(item)
    return [
        Rated(item.turns[:turn], texts[:turn], references[:turn] if len(references) >= turn else ())
        for turn in range(1, len(item.turns) + 1)
    ]


def _references(item: Item) -> tuple[str, ...]:
    """Right answers, one per turn as far as they go, for the categories that have any."""
    given: Any = item.record.get("gpt4_reference") or item.record.get("reference") or ()
    if item.group not in _WITH_REFERENCE or isinstance(given, str):
        return ()
    return tuple(takewhile(lambda text: isinstance(text, str) and text.strip(), given))


def _verdict(answer: Answer, ratings: Sequence[Rating]) -> Verdict:
    values = [rating.rating for rating in ratings]
    scores = {name: value for name, value in zip(_TURN_METRICS, values, strict=False) if value is not None}
    known = [value for value in values if value is not None]
    if values and len(known) == len(values):
        scores[MTBench.metric] = sum(known) / len(known)
    detail: dict[str, Any] = {"turns": [dict(rating.detail) for rating in ratings]}
    if len(known) < len(values):
        detail["flagged"] = True
    return Verdict(
        scores,
        extracted=answer.texts[-1] if answer.texts else None,
        note="; ".join(f"turn {number}: {rating.note}" for number, rating in enumerate(ratings, start=1)),
        detail=detail,
    )
