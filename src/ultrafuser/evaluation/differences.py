"""Where runs differ: the items that one run gets right and another wrong, with what each of them wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ultrafuser.evaluation.record import Entry
from ultrafuser.evaluation.statistics import score_of

__all__ = ["KEPT", "differing_items", "item_scores", "question_of"]

KEPT = 50  # items per benchmark that a comparison keeps in full


def item_scores(entries: Sequence[Entry], metric: str) -> dict[str, float]:
    """Score of each item, the mean over its samples, by id in the order of the data."""
    values: dict[str, list[float]] = {}
    for entry in entries:
        score = score_of(entry, metric)
        if score is not None:
            values.setdefault(entry.id, []).append(score)
    return {id: sum(scores) / len(scores) for id, scores in values.items()}


def question_of(entry: Entry) -> list[str]:
    """What was asked: the user's turns, or the last message of the first query."""
    return list(entry.turns) or [query["messages"][-1]["content"] for query in entry.queries[:1] if query["messages"]]


def differing_items(entries: Mapping[str, Sequence[Entry]], metric: str, *, kept: int = KEPT) -> dict[str, Any]:
    """Items that all runs have and score differently, the largest spread first, else in the order of the data.

    `entries` are per run. "total" counts them, "items" holds the first `kept` with question, prompts and answers.
    """
    scores = {run: item_scores(rows, metric) for run, rows in entries.items()}
    common = [id for id in next(iter(scores.values()), {}) if all(id in own for own in scores.values())]
    spreads = {id: _spread([own[id] for own in scores.values()]) for id in common}
    differing = sorted((id for id in common if spreads[id] > 0), key=lambda id: -spreads[id])
    chosen = differing[:kept]
    first = {run: _first_samples(rows, set(chosen)) for run, rows in entries.items()}
    items = []
    for id in chosen:
        some = next(iter(first.values()))[id]
        answers = {run: _one(own[id], scores[run][id]) for run, own in first.items()}
        about = {"id": id, "group": some.group, "spread": spreads[id], "question": question_of(some)}
        items.append(about | {"runs": answers})
    return {"total": len(differing), "compared": len(common), "items": items}


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _first_samples(entries: Sequence[Entry], ids: set[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.id in ids:
            found.setdefault(entry.id, entry)
    return found


def _one(entry: Entry, score: float) -> dict[str, Any]:
    return {
        "score": score,
        "answers": list(entry.answers),
        "extracted": entry.extracted,
        "note": entry.note,
        "finished": entry.finished,
        "prompts": dict(entry.prompts),
    }
