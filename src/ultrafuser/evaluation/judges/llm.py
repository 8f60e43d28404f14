"""A language model behind an OpenAI-compatible endpoint as the judge.

Comparisons are made twice with the answers swapped, so that a liking for the first or the last answer cancels out
(Zheng et al., 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", section 3.4). The prompts are our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from ultrafuser.endpoint import ChatClient, ChatRequest, RejectedError
from ultrafuser.evaluation.judges.judge import Choice, Chosen, Comparison, Pair, Rated, Rating
from ultrafuser.evaluation.judges.verdicts import ANSWER_A, ANSWER_B, TIE, read_choice, read_rating, read_verdict

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["LLMJudge", "rating_prompt"]

RETRY_TEMPERATURE = 0.7  # a second try at temperature 0 would say the same again
EMPTY = "empty answer"
_PROMPTS = ("compare.jinja", "rate.jinja")
_CHOOSE = "choose.jinja"  # apart: what a run of `eval` says about its judge must not change with it
LETTERS = ascii_uppercase


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one prompt came to: the value read from the judge's text, None where there was none to read."""

    value: Any
    text: str
    retried: bool
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        without = {"left_out": list(self.left_out)} if self.left_out else {}
        return {"text": self.text, "retried": self.retried} | without


class LLMJudge:
    """Judges with a chat model. Temperature 0; a reply without a verdict is asked for once more at a higher one.

    `max_tokens` bounds a reply, hidden reasoning included. A model that takes no temperature judges at its own, and the
    detail says so ("left_out"). An empty answer loses, or is rated 1, without a call. The
    client is closed with the judge.
    """

    rates = True

    def __init__(self, client: ChatClient, *, max_tokens: int = 2048) -> None:
        self._client = client
        self._max_tokens = max_tokens
        self.name = client.model

    def compare(self, cases: Sequence[tuple[str, str, str]]) -> list[Comparison]:
        """One comparison per (instruction, answer, reference), in their order; two calls each."""
        pairs = [Pair(*case) for case in cases]
        settled = {number: _without_a_call(pair) for number, pair in enumerate(pairs)}
        open_numbers = [number for number, comparison in settled.items() if comparison is None]
        prompts = [prompt for number in open_numbers for prompt in _both_orders(pairs[number])]
        readings = self._read(prompts, read_verdict)
        for place, number in enumerate(open_numbers):
            settled[number] = _compared(readings[2 * place], readings[2 * place + 1])
        return [comparison for comparison in settled.values() if comparison is not None]

    def rate(self, cases: Sequence[Rated]) -> list[Rating]:
        """One rating per conversation, in their order."""
        asked = [number for number, case in enumerate(cases) if case.answers[-1].strip()]
        readings = self._read([rating_prompt(cases[number]) for number in asked], read_rating)
        ratings = [Rating(1.0, EMPTY) for _ in cases]
        for number, reading in zip(asked, readings, strict=True):
            ratings[number] = _rated(reading)
        return ratings

    def choose(self, cases: Sequence[Choice]) -> list[Chosen]:
        """One candidate per case; two calls each, with the candidates as given and in the opposite order.

        Where both orders name another one, the first order's counts; where one has no verdict, the other's.
        """
        prompts = [prompt for case in cases for prompt in (_choice_prompt(case), _choice_prompt(_reversed(case)))]
        letters = "".join(LETTERS[: max((len(case.candidates) for case in cases), default=0)])
        readings = self._read(prompts, lambda reply: read_choice(reply, letters))
        pairs = zip(cases, readings[::2], readings[1::2], strict=True)
        return [_chosen(len(case.candidates), first, second) for case, first, second in pairs]

    def describe(self) -> dict[str, Any]:
        """Model, address, and what its prompts were."""
        digest = hashlib.sha256("".join(_prompt_source(name) for name in _PROMPTS).encode()).hexdigest()
        return {
            "kind": "language model",
            **self._client.describe(),
            "temperature": 0.0,
            "max_tokens": self._max_tokens,
            "prompts": digest[:16],
        }

    def usage(self) -> dict[str, int]:
        """Calls, retries, cache hits and tokens so far."""
        return self._client.usage.as_dict()

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _read(self, prompts: Sequence[str], read: Callable[[str], Any]) -> list[_Reading]:
        first = self._ask(prompts, read, retry=False)
        again = [number for number, reading in enumerate(first) if reading.value is None]
        second = self._ask([prompts[number] for number in again], read, retry=True)
        for number, reading in zip(again, second, strict=True):
            first[number] = reading
        return first

    def _ask(self, prompts: Sequence[str], read: Callable[[str], Any], *, retry: bool) -> list[_Reading]:
        requests = [
            ChatRequest(
                ({"role": "user", "content": prompt},),
                max_tokens=self._max_tokens,
                temperature=RETRY_TEMPERATURE if retry else 0.0,
                sample=int(retry),
            )
            for prompt in prompts
        ]
        readings = [_Reading(None, "", retry) for _ in prompts]
        for number, reply in self._client.map(requests) if requests else ():
            if isinstance(reply, RejectedError):
                readings[number] = _Reading(None, f"({reply})", retry)
            else:
                text = reply.text or (f"({reply.refusal})" if reply.refusal else f"(empty: {reply.finish})")
                readings[number] = _Reading(read(reply.text), text, retry, reply.left_out)
        return readings


def _without_a_call(pair: Pair) -> Comparison | None:
    """The comparison that needs no judge: an empty answer loses, two empty ones are a tie."""
    if pair.answer.strip() and pair.reference.strip():
        return None
    win = (1.0 + bool(pair.answer.strip()) - bool(pair.reference.strip())) / 2
    return Comparison(win, EMPTY if not pair.answer.strip() else "empty reference")


def _both_orders(pair: Pair) -> tuple[str, str]:
    """The prompt with the answer under test as A, and as B."""
    mark = _mark(*pair)
    template = _environment().get_template("compare.jinja")
    first = template.render(instruction=pair.instruction, answer_a=pair.answer, answer_b=pair.reference, mark=mark)
    second = template.render(instruction=pair.instruction, answer_a=pair.reference, answer_b=pair.answer, mark=mark)
    return first, second


def _compared(first: _Reading, second: _Reading) -> Comparison:
    """Both orders put together: what they agree on; a tie where they do not, or where one has no verdict."""
    outcomes = [
        {ANSWER_A: "win", ANSWER_B: "loss", TIE: "tie", None: None}[first.value],
        {ANSWER_A: "loss", ANSWER_B: "win", TIE: "tie", None: None}[second.value],
    ]
    detail: dict[str, Any] = {
        "orders": [
            {"outcome": outcome, "verdict": reading.value} | reading.as_dict()
            for outcome, reading in zip(outcomes, (first, second), strict=True)
        ]
    }
    if None in outcomes:
        return Comparison(
            0.5, "no verdict from the judge: counted as a tie", detail | {"agreed": None, "flagged": True}
        )
    agreed = outcomes[0] == outcomes[1]
    if not agreed:
        note = f"orders disagree: {outcomes[0]} when first, {outcomes[1]} when second"
        return Comparison(0.5, note, detail | {"agreed": False})
    win = {"win": 1.0, "tie": 0.5, "loss": 0.0}[str(outcomes[0])]
    return Comparison(win, f"{outcomes[0]} in both orders", detail | {"agreed": True})


def _chosen(count: int, first: _Reading, second: _Reading) -> Chosen:
    """Both orders put together; letters beyond the candidates are no verdict."""
    places = [_place(first.value, count), _place(second.value, count)]
    if places[1] is not None:
        places[1] = count - 1 - places[1]
    known = [place for place in places if place is not None]
    agreed = len(set(known)) == 1 if len(known) == 2 else None
    detail = {"orders": [first.as_dict(), second.as_dict()], "places": places, "agreed": agreed}
    return Chosen(known[0], detail) if known else Chosen(None, detail | {"flagged": True})


def _place(letter: str | None, count: int) -> int | None:
    return LETTERS.index(letter) if letter is not None and LETTERS.index(letter) < count else None


def _reversed(case: Choice) -> Choice:
    return case._replace(candidates=case.candidates[::-1])


def _choice_prompt(case: Choice) -> str:
    letters = LETTERS[: len(case.candidates)]
    mark = _mark(*case.questions, *(text for texts in case.candidates for text in texts))
    return (
        _environment()
        .get_template(_CHOOSE)
        .render(
            questions=case.questions,
            candidates=list(zip(letters, case.candidates, strict=True)),
            letters=f"{', '.join(letters[:-1])} or {letters[-1]}",
            mark=mark,
        )
    )


def _rated(reading: _Reading) -> Rating:
    if reading.value is None:
        return Rating(None, "no rating from the judge", reading.as_dict() | {"flagged": True})
    return Rating(reading.value, f"rated {reading.value:g}", reading.as_dict())


def rating_prompt(case: Rated) -> str:
    """What a judge is asked to rate a conversation; `verdicts.read_rating` reads its reply."""
    mark = _mark(*case.questions, *case.answers, *case.references)
    template = _environment().get_template("rate.jinja")
    return template.render(questions=case.questions, answers=case.answers, references=case.references, mark=mark)


def _mark(*texts: str) -> str:
    """A word that no answer can know, so that none can fake the end of its own text; the same for the same texts."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", errors="surrogatepass")).hexdigest()[:8]


def _prompt_source(name: str) -> str:
    return files("ultrafuser.evaluation.judges").joinpath("prompts", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    sources = {name: _prompt_source(name) for name in (*_PROMPTS, _CHOOSE)}
    return Environment(loader=DictLoader(sources), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
