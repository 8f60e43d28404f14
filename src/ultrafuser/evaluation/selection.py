"""Post-generation selection: several models answer, and a picker who does not know whose answer is whose takes one.

The paper (Ding et al., ACL 2025, table 5) has three specialists answer and a reward model or an LLM judge pick, the
candidates in random order.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ultrafuser.evaluation.benchmark import Item, Message, Query
from ultrafuser.evaluation.judges import Choice, Judge
from ultrafuser.evaluation.subject import Asking, Subject

__all__ = ["JudgePicker", "LikelihoodPicker", "Pick", "Picker", "Selected", "select"]


@dataclass(frozen=True, slots=True)
class Pick:
    """Places of the best candidates, several where they tie, all or the first where nothing could be decided.

    `detail` is plain data; "flagged" is true in it where the picker gave no verdict.
    """

    best: tuple[int, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)


class Picker(Protocol):
    """Something that takes one candidate of each case."""

    name: str

    def pick(self, cases: Sequence[Choice]) -> list[Pick]:
        """One pick per case, in their order."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What came of one case: whose answer was taken, the order that the candidates were shown in, the picker's word."""

    name: str
    order: tuple[str, ...]
    detail: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"name": self.name, "order": list(self.order), "detail": dict(self.detail)}


def select(
    questions: Mapping[str, Sequence[str]],
    answers: Mapping[str, Mapping[str, Sequence[str]]],
    picker: Picker,
    *,
    seed: int = 0,
) -> dict[str, Selected]:
    """Whose answers are taken, by item: `questions[item]` are its turns, `answers[name][item]` one text per turn.

    The candidates of an item are shuffled by `seed` and its id before the picker sees them; of those that tie, the one
    named first in `answers` is taken. Raises ValueError where an answer is missing.
    """
    names = list(answers)
    for name in names:
        lacking = next((item for item in questions if item not in answers[name]), None)
        if lacking is not None:
            raise ValueError(f"answers: {name} has none to {lacking!r}; every model must answer every item")
    orders = {item: random.Random(f"{seed} {item}").sample(names, len(names)) for item in questions}
    cases = [
        Choice(tuple(turns), tuple(tuple(answers[name][item]) for name in orders[item]))
        for item, turns in questions.items()
    ]
    picks = picker.pick(cases)
    found = {}
    for item, pick in zip(questions, picks, strict=True):
        taken = min((orders[item][place] for place in pick.best), key=names.index)
        found[item] = Selected(taken, tuple(orders[item]), pick.detail)
    return found


class LikelihoodPicker:
    """Takes the candidate with the highest mean log-likelihood per token, its end included, under one model.

    `subject` gives likelihoods, as the uniform mixture of the specialists does; no judge is asked, so it says which
    answer the models find likeliest, not which is right. Candidates that it cannot read, for their length, come last.
    """

    def __init__(self, subject: Subject, *, batch_size: int = 8) -> None:
        self._subject = subject
        self._batch_size = batch_size
        self.name = "likelihood"

    def pick(self, cases: Sequence[Choice]) -> list[Pick]:
        """One pick per case; the detail holds the candidates' "scores" in nats per token."""
        items = [
            _item(f"{number}/{place}", case, texts)
            for number, case in enumerate(cases)
            for place, texts in enumerate(case.candidates)
        ]
        scores = iter(self._scores(items))
        return [best_of([next(scores) for _ in case.candidates]) for case in cases]

    def _scores(self, items: Sequence[Item]) -> list[float | None]:
        found: list[float | None] = [None] * len(items)
        order = sorted(range(len(items)), key=lambda place: -self._subject.length(items[place]))
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            for index, answer in self._subject.answer([items[place] for place in places], Asking(1)):
                rows = [one for query in answer.likelihoods for one in query]
                tokens = sum(one.tokens for one in rows)
                found[places[index]] = sum(one.logprob for one in rows) / tokens if tokens else None
        return found


class JudgePicker:
    """Asks a judge, a language model or a reward model, which candidate to keep; see `Judge.choose`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.name = judge.name

    def pick(self, cases: Sequence[Choice]) -> list[Pick]:
        """One pick per case; without a verdict the candidate shown first, which is one drawn by lot."""
        chosen = self._judge.choose(cases)
        return [Pick((one.place or 0,), one.detail) for one in chosen]


def best_of(scores: Sequence[float | None]) -> Pick:
    """The candidates with the highest score; None is lower than any. All are level, and flagged, where none has one."""
    known = [score for score in scores if score is not None]
    best = max(known, default=None)
    places = tuple(place for place, score in enumerate(scores) if score == best)
    return Pick(places, {"scores": list(scores)} | ({} if known else {"flagged": True}))


def _item(name: str, case: Choice, texts: Sequence[str]) -> Item:
    """The candidate's texts as continuations of the conversation that they belong to."""
    messages: list[Message] = []
    queries = []
    for question, text in zip(case.questions, texts, strict=True):
        messages.append({"role": "user", "content": question})
        queries.append(Query(tuple(messages), (text,), end=True))
        messages.append({"role": "assistant", "content": text})
    return Item(name, {}, queries=tuple(queries))
