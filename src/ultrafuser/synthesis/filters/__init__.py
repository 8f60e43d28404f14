"""What must hold of records: the table of filters, and applying a spec's to what a step made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ultrafuser.lookup import lookup
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.spec import Spec

__all__ = ["FILTERS", "Filter", "apply_filters", "check_filters"]

Verdicts = Iterator[tuple[str, str]]  # id of a record to drop, and why


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: `judge(spec, domain, journal, step, options)` yields what to drop of a step's records.

    `steps` are those whose records it can judge. It reads by cursor and keeps nothing that grows with the pool's texts.
    """

    name: str
    summary: str
    steps: tuple[str, ...]
    judge: Callable[[Spec, Domain, Journal, str, Mapping[str, Any]], Verdicts]


FILTERS: dict[str, Filter] = {}


def check_filters(spec: Spec) -> None:
    """Raises ValueError for a filter that there is not."""
    for i, wanted in enumerate(spec.filters):
        lookup(FILTERS, wanted.name, f"filters[{i}].name")


def apply_filters(spec: Spec, domains: Sequence[Domain], journal: Journal, step: str) -> dict[str, int]:
    """Judge a step's records by the spec's filters, in order; how many each one dropped."""
    dropped: dict[str, int] = {}
    for wanted in spec.filters:
        row = FILTERS[wanted.name]
        if step not in row.steps:
            continue
        for domain in domains:
            reasons = list(row.judge(spec, domain, journal, step, wanted.options))
            journal.judge((identity, f"{row.name}: {reason}") for identity, reason in reasons)
            dropped[row.name] = dropped.get(row.name, 0) + len(reasons)
    return dropped
