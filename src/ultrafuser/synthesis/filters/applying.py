"""Applying a spec's filters to what a step made: which ones, on which domains, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

from pydantic import ValidationError

from ultrafuser.lookup import did_you_mean, lookup
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.filters.filter import Filter, FilterOptions, Work
from ultrafuser.synthesis.filters.table import FILTERS
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import REJECTED
from ultrafuser.synthesis.spec import Spec

__all__ = ["apply_filter", "check_filters", "chosen_filters", "content_print", "restore"]

CHUNK = 1000  # verdicts written together


def check_filters(spec: Spec, domains: Sequence[Domain]) -> None:
    """Raises ValueError, before anything is asked, for an unknown filter, a wrong option, or what a filter lacks."""
    for domain in domains:
        for name in domain.checks:
            lookup(FILTERS, name, f"checks of domain {domain.name}")
    for i, wanted in enumerate(spec.filters):
        row = lookup(FILTERS, wanted.name, f"filters[{i}].name")
        where = f"filters[{i}].options"
        options = _options(row, wanted.options, where)
        for step in options.steps or ():
            lookup(dict.fromkeys(row.steps, row), step, f"{where}.steps")
        for name in options.domains or ():
            lookup({domain.name: row for domain in domains}, name, f"{where}.domains")
        if row.ready is not None:
            try:
                row.ready(spec, options)
            except ValueError as error:
                raise ValueError(
                    f"{where}.{error}" if str(error).split(":")[0].isidentifier() else f"{where}: {error}"
                ) from None


def _options(row: Filter, given: dict[str, Any], where: str) -> FilterOptions:
    try:
        return row.options(**given)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        path = ".".join([where, *map(str, first["loc"])])
        fields = list(row.options.model_fields)
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][0])
            raise ValueError(
                f"{path}: {row.name} has no such option; it has {', '.join(fields)}{did_you_mean(name, fields)}"
            ) from None
        if first["type"] == "missing":
            raise ValueError(f"{path}: is missing; {row.name} needs it") from None
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{path}: {first['input']!r:.60}: {said[0].lower()}{said[1:]}") from None


def chosen_filters(
    spec: Spec, domains: Sequence[Domain], journal: Journal | None, step: str
) -> Iterator[tuple[Filter, Work]]:
    """The spec's filters that judge a step, in its order, each with its work; an estimate has no journal yet."""
    for i, wanted in enumerate(spec.filters):
        row = lookup(FILTERS, wanted.name, f"filters[{i}].name")
        options = _options(row, wanted.options, f"filters[{i}].options")
        if step not in (options.steps or row.usual or row.steps):
            continue
        if options.domains is not None:
            judged = [domain for domain in domains if domain.name in options.domains]
        else:
            judged = [domain for domain in domains if not row.by_checks or row.name in domain.checks]
        if judged:
            yield row, Work(spec, judged, cast(Journal, journal), step, options)


def content_print(spec: Spec) -> str:
    """A hash of the files that the spec's filters read."""
    digest = hashlib.sha256()
    for i, wanted in enumerate(spec.filters):
        row = FILTERS[wanted.name]
        options = _options(row, wanted.options, f"filters[{i}].options")
        for file in row.reads(spec, options) if row.reads is not None else ():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:20]


def apply_filter(row: Filter, work: Work) -> int:
    """Judge records by one filter; returns how many it dropped. The journal holds each one's reason."""
    verdicts = ((identity, f"{row.name}: {reason}") for identity, reason in row.judge(work))
    dropped = 0
    while chunk := list(islice(verdicts, CHUNK)):
        work.journal.judge(chunk)
        dropped += len(chunk)
    return dropped


def restore(journal: Journal, step: str) -> None:
    """Take back what filters have said of a step's records before; what a person removed stays removed."""
    dropped = (
        (record.id, None)
        for record in journal.records(step, rejected=True)
        if record.state == REJECTED and str(record.reason).partition(":")[0] in FILTERS
    )
    while chunk := list(islice(dropped, CHUNK)):
        journal.judge(chunk)
