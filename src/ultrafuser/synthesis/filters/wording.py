"""Checks of wording: length, refusals, answers that break off, requests that lean on what is not there."""

from __future__ import annotations

from pydantic import Field, field_validator

from ultrafuser.lookup import lookup
from ultrafuser.synthesis.filters.cut_off import cut_off
from ultrafuser.synthesis.filters.filter import ANSWERS, REQUESTS, Filter, FilterOptions, Work, each, is_answer, text_of
from ultrafuser.synthesis.filters.leaning import leans_on
from ultrafuser.synthesis.filters.refusals import refused
from ultrafuser.synthesis.records import Record

__all__ = ["LENGTH", "REFUSAL", "SELF_CONTAINED", "TRUNCATION"]

TOPICS = ("meta_topics", "sub_topics")
LIMITS = {
    "meta_topics": [2, 80],
    "sub_topics": [2, 100],
    "instructions": [20, 4000],
    "expansion": [20, 4000],
    "complication": [20, 6000],
    "responses": [20, 20000],
    "further_turns": [2, 20000],
}


class LengthOptions(FilterOptions):
    """Options of length."""

    limits: dict[str, list[int]] = Field(default_factory=dict)
    """Fewest and most characters by step, for example `responses: [200, 8000]`; steps left out keep the usual ones."""

    @field_validator("limits")
    @classmethod
    def _in_order(cls, limits: dict[str, list[int]]) -> dict[str, list[int]]:
        for step, pair in limits.items():
            lookup(LIMITS, step, "limits")
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise ValueError(f"{step}: {pair} must be two numbers, the fewest and the most characters")
        return limits


class TruncationOptions(FilterOptions):
    """Options of truncation."""

    sentences: bool = True
    """Also drop what consists of sentences of which the last one has no full stop, or other mark, at its end."""


def _length(record: Record, work: Work) -> str | None:
    fewest, most = work.options.limits.get(record.step, LIMITS[record.step])
    size = len(text_of(record).strip())
    if size < fewest:
        return f"too short: {size} characters, at least {fewest} are wanted"
    return f"too long: {size} characters, at most {most} are wanted" if size > most else None


def _refusal(record: Record, work: Work) -> str | None:
    return refused(text_of(record), answer=is_answer(record))


def _truncation(record: Record, work: Work) -> str | None:
    return cut_off(text_of(record), sentences=work.options.sentences and is_answer(record))


def _self_contained(record: Record, work: Work) -> str | None:
    return leans_on(text_of(record))


LENGTH = Filter(
    name="length",
    summary="is shorter or longer than wanted",
    steps=(*TOPICS, *REQUESTS, *ANSWERS),
    judge=each(_length),
    options=LengthOptions,
)
REFUSAL = Filter(
    name="refusal", summary="refuses, or asks back, in place of an answer", steps=(*REQUESTS, *ANSWERS),
    judge=each(_refusal),
)  # fmt: skip
TRUNCATION = Filter(
    name="truncation",
    summary="breaks off",
    steps=(*REQUESTS, *ANSWERS),
    usual=("complication", *ANSWERS),
    judge=each(_truncation),
    options=TruncationOptions,
)
SELF_CONTAINED = Filter(
    name="self_contained",
    summary="speaks of code, a text or a picture that is not there",
    steps=REQUESTS,
    judge=each(_self_contained),
)
