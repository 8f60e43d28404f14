"""What a benchmark is: items to ask, and how answers are graded. It knows neither models nor files.

Every other part of the package speaks in these types: a subject (the model under test) turns items into answers, a
benchmark turns answers into verdicts, the runner writes both into a run's record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultrafuser.evaluation.tools import Tools

__all__ = ["Answer", "Benchmark", "Item", "Likelihood", "Needs", "Query", "Record", "Source", "Verdict"]

Message = dict[str, str]
Record = Mapping[str, Any]


class Needs(Enum):
    """What a benchmark asks of the model under test."""

    ANSWERS = "answers"  # written text: any subject
    CHOICES = "choices"  # log-probabilities of one-word answers: endpoints that give `top_logprobs` can do it too
    LIKELIHOODS = "likelihoods"  # log-likelihoods of whole texts: local models only


@dataclass(frozen=True, slots=True)
class Query:
    """A conversation that ends in a user message, and answers to it whose log-likelihood is asked for.

    `end` counts the end-of-sequence token after the answer as a part of it, as the training loss does.
    """

    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    end: bool = False


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-likelihood of one continuation: nats summed over its `tokens` tokens."""

    logprob: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to ask: either user `turns`, answered one after another, or `queries`.

    `group` is the category that sub-scores are shown by; `record` is the data file's line.
    """

    id: str
    record: Record
    turns: tuple[str, ...] = ()
    queries: tuple[Query, ...] = ()
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model under test made of an item.

    `texts` has one answer per turn; `likelihoods` one tuple per query, one entry per continuation. `prompts` is, per
    specialist, what it read before its last answer (for queries: before the first one). `gate_weights` is the mean
    over response tokens, None where there is no gate. `tokenizers` is, where the specialists' differ, per specialist
    the share of steps in which it took part and was tokenised anew (`generation.events.Crossings`). `tokens` counts
    response tokens; `finished` is False where a length limit cut an answer off; `seconds` is this item's share of the
    time of its batch.
    """

    texts: tuple[str, ...] = ()
    likelihoods: tuple[tuple[Likelihood, ...], ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    gate_weights: Mapping[str, float] | None = None
    tokenizers: Mapping[str, Mapping[str, float]] | None = None
    tokens: int = 0
    finished: bool = True
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one answer did: a value per metric, the benchmark's own `metric` always among them.

    `extracted` is the part of the answer that was judged; `weight` is what the item counts for in the mean (response
    tokens for a loss, 1 elsewhere); `note` says in a few words why (a failed assertion, a judge's reason).
    """

    scores: Mapping[str, float]
    extracted: str | None = None
    weight: float = 1.0
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def _as_it_is(record: Record) -> Record:
    return record


@dataclass(frozen=True, slots=True)
class Source:
    """Where the records are: `file` is the stem in a data folder (FILE.jsonl or FILE.jsonl.gz), the rest on the Hub.

    `hub_file` is a JSON file of the repository, for one that no longer loads by configuration and split. `adapt` turns
    a record as the Hub has it into the form of the local file; `required` are the fields that a record of the local
    file must have.
    """

    file: str
    required: tuple[str, ...]
    hub_id: str | None = None
    hub_config: str | None = None
    hub_split: str = "test"
    hub_file: str | None = None
    adapt: Callable[[Record], Record] = _as_it_is
    licence: str = ""


class Benchmark(ABC):
    """One benchmark: a row of `BENCHMARKS`. Stateless; what grading needs comes in `tools`."""

    name: str
    title: str  # as published, for tables
    domain: str  # text, code, math or chat
    metric: str  # the main score's name
    source: Source
    reference: str  # where it was published
    needs: Needs = Needs.ANSWERS
    higher_is_better: bool = True
    max_new_tokens: int = 512  # per turn, unless the user says otherwise
    uses: tuple[str, ...] = ()  # of "sandbox", "judge", "rating" (a judge that gives marks): what grading needs
    has_chain_of_thought: bool = False

    @abstractmethod
    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """The items of the data file's records, in their order, with unique ids."""

    @abstractmethod
    def grade(self, pairs: Sequence[tuple[Item, Answer]], tools: Tools) -> list[Verdict]:
        """One verdict per pair, in their order. An answer can be anything: it is never the cause of an exception."""
