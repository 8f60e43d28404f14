"""Whether runs can be compared: same data, same questions, same settings. It says what differs and judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ultrafuser.evaluation.record import Entry, Run

__all__ = ["comparability_warnings"]

LABELS = frozenset({"title", "domain", "reference", "licence", "available", "data.records"})  # nothing hangs on them
PLACES = frozenset(
    {"path", "from", "file", "files", "address", "revision"}
)  # the same content can lie elsewhere: its hash says so
SHOWN_IDS = 3


def comparability_warnings(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """One sentence per difference between the first run and another that makes their scores hard to compare.

    `names` are what the runs are called. A benchmark that only one of the two has is not a difference.
    """
    warnings = [text for run, name in zip(runs, names, strict=True) for text in _unanswered(run, name)]
    for run, name in zip(runs[1:], names[1:], strict=True):
        pair = (names[0], name)
        for benchmark in runs[0].entries:
            if benchmark in run.entries:
                warnings += _settings(runs[0], run, pair, benchmark)
                warnings += _questions(runs[0].entries[benchmark], run.entries[benchmark], pair, benchmark)
    return warnings


def _about(run: Run, benchmark: str) -> dict[str, Any]:
    about: dict[str, Any] = run.settings.get("benchmarks", {}).get(benchmark, {})
    return about


def _unanswered(run: Run, name: str) -> Iterator[str]:
    for benchmark, entries in run.entries.items():
        about = _about(run, benchmark)
        asked = about.get("items", 0) * about.get("samples", 1)
        if len(entries) < asked:
            yield f"{benchmark}: {name} is not finished: it has {len(entries)} of {asked} answers"


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in PLACES:
                yield from _leaves(inner, (*path, str(key)))
    else:
        yield ".".join(path), value


def _settings(first: Run, run: Run, names: tuple[str, str], benchmark: str) -> Iterator[str]:
    mine, other = (dict(_leaves(_about(one, benchmark))) for one in (first, run))
    for field in dict.fromkeys([*mine, *other]):
        a, b = mine.get(field), other.get(field)
        if field not in LABELS and a != b:
            yield f"{benchmark}: {field} is {_short(a)} in {names[0]} and {_short(b)} in {names[1]}"


def _questions(mine: Sequence[Entry], other: Sequence[Entry], names: tuple[str, str], benchmark: str) -> Iterator[str]:
    asked = [{entry.id: (tuple(entry.turns), repr(entry.queries)) for entry in entries} for entries in (mine, other)]
    for name, own, rest in ((names[0], *asked), (names[1], *reversed(asked))):
        alone = [id for id in own if id not in rest]
        if alone:
            yield f"{benchmark}: {_items(alone)} only in {name}; paired tests leave them out"
    changed = [id for id in asked[0] if id in asked[1] and asked[0][id] != asked[1][id]]
    if changed:
        yield f"{benchmark}: {_items(changed)} not asked in the same words in {names[0]} and {names[1]}"


def _items(ids: Sequence[str]) -> str:
    some = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
    return f"1 item ({some}) is" if len(ids) == 1 else f"{len(ids)} items ({some}) are"


def _short(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:21]}..."
