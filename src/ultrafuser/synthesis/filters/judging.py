"""A judge's rating: a model rates every response from 1 to 10, through the journal like every other request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from ultrafuser.endpoint import ChatRequest, Reply
from ultrafuser.evaluation.judges.judge import Rated
from ultrafuser.evaluation.judges.llm import rating_prompt
from ultrafuser.evaluation.judges.verdicts import read_rating
from ultrafuser.recipe.parts import Count
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.filters.filter import Filter, FilterOptions, Verdicts, Work, text_of
from ultrafuser.synthesis.records import Ask, Reject
from ultrafuser.synthesis.spec import EndpointSpec, Spec
from ultrafuser.synthesis.steps import Pool, Step
from ultrafuser.synthesis.steps.step import unusable

__all__ = ["JUDGE"]

RETRY = 0.3  # temperature: at 0 a reply without a rating would come again


class JudgeOptions(FilterOptions):
    """Options of judge."""

    least: Annotated[float, Field(ge=1, le=10)] = 6.0
    """Lowest rating that is kept."""
    max_tokens: Count = 512
    """Longest reply of the judge, hidden reasoning included."""
    endpoints: Annotated[list[EndpointSpec], Field(min_length=1)] | None = None
    """The judge's endpoints; null: those of the spec, so that a model rates itself."""


def _step(work: Work) -> Step:
    """Requests for a rating of every response that is still kept."""
    name = f"{work.step}/judge"
    judged = {domain.name for domain in work.domains}

    def requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
        for record in pool.records(work.step, domain.name) if domain.name in judged else ():
            instruction = pool.record(record.parents[0])
            if instruction is not None:
                case = Rated((text_of(instruction),), (text_of(record),))
                message = {"role": "user", "content": rating_prompt(case)}
                yield Ask((record.id,), ChatRequest((message,), work.options.max_tokens, RETRY))

    return Step(
        name=name,
        summary="ratings of responses",
        reads=(work.step,),
        makes=("rating",),
        rounds=lambda spec, domain: 1,
        requests=requests,
        accept=_accept,
        counts=lambda spec, domain, made: (made[work.step], made[work.step]) if domain.name in judged else (0, 0),
    )


def _accept(reply: Reply, ask: Ask) -> list[dict[str, Any]] | Reject:
    rating = read_rating(reply.text)
    return unusable(reply) or (Reject("no rating") if rating is None else [{"rating": rating}])


def _judge(work: Work) -> Verdicts:
    """What is rated too low. A response that got no rating, after all attempts, is kept: nothing is known of it."""
    for domain in work.domains:
        for rating in work.journal.records(f"{work.step}/judge", domain.name):
            if rating.data["rating"] < work.options.least:
                yield rating.parents[0], f"rated too low: {rating.data['rating']:g}, at least {work.options.least:g}"


JUDGE = Filter(
    name="judge",
    summary="is rated too low by a judge",
    steps=("responses",),
    judge=_judge,
    options=JudgeOptions,
    asks=_step,
)
