"""What a spec will ask for: requests, tokens and money of every step, before and during a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ultrafuser.synthesis.budget import prompt_tokens
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.filters import chosen_filters
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import Record
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps import STEPS, Step

__all__ = ["Expected", "estimate"]

# Tokens that one record usually takes; once a step has answers, their mean is used in place of this.
USUAL_TOKENS = {
    "meta_topics": 6, "sub_topics": 75, "instructions": 55, "expansion": 55, "complication": 130, "responses": 350,
    "further_turns": 200,
}  # fmt: skip

PROMPT_OF_JUDGE, REPLY_OF_JUDGE = 350, 90


@dataclass(frozen=True, slots=True)
class Expected:
    """One step of one domain: expected requests, records made, tokens and cost; `measured` where answers were used."""

    step: str
    domain: str
    requests: int
    records: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    measured: bool


def estimate(spec: Spec, domains: Sequence[Domain], journal: Journal | None = None) -> list[Expected]:
    """One row per domain and step. Counts are those of a run in which every reply is usable at once."""
    rows = []
    for domain in domains:
        made: dict[str, int] = {}
        for step in STEPS.values():
            requests, records = step.counts(spec, domain, made)
            made[step.name] = records
            rows.append(_row(spec, domain, step, requests, records, journal))
            rows += _asked_by_filters(spec, domain, step, made, journal)
    return rows


def _row(spec: Spec, domain: Domain, step: Step, requests: int, records: int, journal: Journal | None) -> Expected:
    means = journal.mean_tokens(step.name, domain.name) if journal is not None else None
    if means is not None:
        prompt, completion = round(requests * means[0]), round(requests * means[1])
    else:
        longest = spec.responses.max_tokens if step.name == "responses" else spec.generation.max_tokens
        usual = USUAL_TOKENS[step.name]
        prompt = requests * _prompt_tokens(spec, domain, step)
        completion = min(requests * longest, records * usual)
    return Expected(
        step.name, domain.name, requests, records, prompt, completion, _cost(spec, prompt, completion),
        means is not None,
    )  # fmt: skip


def _asked_by_filters(
    spec: Spec, domain: Domain, step: Step, made: dict[str, int], journal: Journal | None
) -> list[Expected]:
    """What filters ask about a step's records, each shown with what was asked."""
    rows = []
    for row, work in chosen_filters(spec, [domain], journal, step.name):
        if row.asks is None:
            continue
        asking = row.asks(work)
        requests, _ = asking.counts(spec, domain, made)
        means = journal.mean_tokens(asking.name, domain.name) if journal is not None else None
        prompt, completion = means or (PROMPT_OF_JUDGE + USUAL_TOKENS[step.name], REPLY_OF_JUDGE)
        tokens = round(requests * prompt), round(requests * completion)
        asked = spec.model_copy(update={"endpoints": work.options.endpoints or spec.endpoints})
        rows.append(
            Expected(asking.name, domain.name, requests, requests, *tokens, _cost(asked, *tokens), means is not None)
        )
    return rows


def _cost(spec: Spec, prompt: int, completion: int) -> float:
    """Money, the endpoints taking their share by their concurrency."""
    lines = sum(endpoint.concurrency for endpoint in spec.endpoints)
    shares = ((endpoint, endpoint.concurrency / lines) for endpoint in spec.endpoints)
    return sum(s * (prompt * e.input_price + completion * e.output_price) for e, s in shares) / 1e6


def _prompt_tokens(spec: Spec, domain: Domain, step: Step) -> int:
    """Tokens of the prompt that the domain's own examples lead to."""
    ask = next(step.requests(spec, domain, _Examples(domain), 0), None)
    return 0 if ask is None else prompt_tokens(ask.request.messages)


class _Examples:
    """A pool that holds the domain's examples as if the steps had made them."""

    def __init__(self, domain: Domain) -> None:
        example, name = domain.examples[0], domain.name
        sub = {"name": example.sub_topic, "relevance": example.relevance, "use_case": example.use_case}
        text, answer = {"text": example.instruction}, {"text": example.instruction * 8}
        above = ("sub.0", "topic.0")
        self._records = {
            "meta_topics": [Record("topic.0", "meta_topics", name, {"name": example.topic})],
            "sub_topics": [Record("sub.0", "sub_topics", name, sub, ("topic.0",))],
            "instructions": [Record(f"i{n}.0", "instructions", name, text, above) for n in range(100)],
            "responses": [Record(f"r{n}.0", "responses", name, answer, (f"i{n}.0",)) for n in range(100)],
        }

    def records(
        self, step: str, domain: str | None = None, *, rejected: bool = False, since: int = 0, limit: int = -1
    ) -> Iterator[Record]:
        """The examples of a step, but none where a step asks for what it has made itself."""
        found = self._records.get(step, [])[since:]
        yield from found if limit < 0 else found[:limit]

    def record(self, identity: str) -> Record | None:
        """An example by its id."""
        return next((r for records in self._records.values() for r in records if r.id == identity), None)

    def children(self, identity: str, step: str) -> Iterator[Record]:
        """None: examples have no children."""
        yield from ()

    def extent(self, step: str, domain: str) -> tuple[int, int]:
        """Places of the examples of a step."""
        return 0, len(self._records.get(step, [])) - 1
