"""The items of runs packed for the report's browser: every text once, prompts by their parts, the longest ones cut."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ultrafuser.evaluation.compare import Comparison
from ultrafuser.evaluation.differences import item_scores
from ultrafuser.evaluation.record import Entry, Run
from ultrafuser.evaluation.statistics import score_of

__all__ = ["json_for_html", "pack", "specialist_names"]

BUDGET = 24_000_000  # characters of text that a page may hold before its texts are cut shorter
CUTS = (20_000, 6_000, 2_000, 600)  # characters that are kept of one text: the first that meets the budget
SAMPLES = 8  # per item and run; the record holds the others


class _Texts:
    """A table in which every text stands once, the empty one at place 0."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {"": 0}  # 0 can be left out like any other nought

    def place(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    def cut(self) -> tuple[list[str], dict[int, int], int]:
        """The texts as the page holds them, the whole length of those cut by their place, and the limit."""
        texts = list(self._places)
        limit = next((cut for cut in CUTS if sum(min(len(text), cut) for text in texts) <= BUDGET), CUTS[-1])
        lengths = {place: len(text) for place, text in enumerate(texts) if len(text) > limit}
        return [_middle_out(text, limit) for text in texts], lengths, limit


def pack(runs: Sequence[Run], comparison: Comparison, colours: Mapping[str, str]) -> dict[str, Any]:
    """Plain data for the page's script; `colours` are per specialist. Short keys, as there are many of them."""
    texts = _Texts()
    specialists = list(colours)
    benchmarks = []
    for name, table in comparison.benchmarks.items():
        rows = [run.entries.get(name, []) for run in runs]
        benchmarks.append(
            {
                "name": name,
                "title": table["title"],
                "unit": table["unit"],
                "higher": table["higher_is_better"],
                "items": _items(rows, table["metric"], texts, specialists),
            }
        )
    kept, lengths, limit = texts.cut()
    return {
        "runs": comparison.runs,
        "specialists": specialists,
        "colours": list(colours.values()),
        "benchmarks": benchmarks,
        "texts": kept,
        "lengths": lengths,
        "limit": limit,
    }


def specialist_names(runs: Sequence[Run]) -> list[str]:
    """All specialists whose prompts or weights the runs show, those with a gate first, in the order of the model."""
    found: dict[str, None] = {}
    entries = [entry for run in runs for rows in run.entries.values() for entry in rows]
    for entry in entries:
        found.update(dict.fromkeys(entry.gate_weights or ()))
    for entry in entries:
        found.update(dict.fromkeys(entry.prompts))
    return list(found)


def json_for_html(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _items(
    rows: Sequence[Sequence[Entry]], metric: str, texts: _Texts, specialists: Sequence[str]
) -> list[dict[str, Any]]:
    samples: list[dict[str, list[Entry]]] = []
    for entries in rows:
        own: dict[str, list[Entry]] = {}
        for entry in entries:
            own.setdefault(entry.id, []).append(entry)
        samples.append(own)
    scores = [item_scores(entries, metric) for entries in rows]
    packed = []
    for id in dict.fromkeys(id for own in samples for id in own):
        some = next(own[id][0] for own in samples if id in own)
        values = [own[id] for own in scores if id in own]
        packed.append(
            {
                "i": id,
                "g": some.group,
                "q": [texts.place(turn) for turn in some.turns],
                "k": _queries(some, texts),
                "d": max(values) - min(values) if len(values) > 1 else 0,
                "s": [own.get(id) for own in scores],
                "r": [
                    [_sample(one, metric, texts, specialists) for one in own.get(id, ())[:SAMPLES]] for own in samples
                ],
                "m": max(len(own.get(id, ())) for own in samples),
            }
        )
    return packed


def _queries(entry: Entry, texts: _Texts) -> list[list[Any]]:
    """[what was asked last, its continuations] of each query."""
    return [
        [
            texts.place(query["messages"][-1]["content"]) if query["messages"] else None,
            [texts.place(text) for text in query["continuations"]],
        ]
        for query in entry.queries
    ]


def _sample(entry: Entry, metric: str, texts: _Texts, specialists: Sequence[str]) -> dict[str, Any]:
    """One answer; what is empty is left out."""
    weights = entry.gate_weights or {}
    question = entry.turns[-1] if entry.turns else ""
    full: dict[str, Any] = {
        "s": score_of(entry, metric),
        "o": {name: _rounded(value) for name, value in entry.scores.items() if name != metric},
        "a": [texts.place(text) for text in entry.answers],
        "x": None if entry.extracted is None else texts.place(entry.extracted),
        "n": texts.place(entry.note) if entry.note else None,
        "u": 1 if entry.answers and not entry.finished else 0,
        "f": 1 if entry.detail.get("flagged") else 0,
        "v": texts.place(_readable(entry.detail)) if entry.detail else None,
        "w": [round(weights.get(name, 0.0), 4) for name in specialists] if weights else None,
        "p": [
            [specialists.index(name), [texts.place(part) for part in _parts(prompt, question)]]
            for name, prompt in entry.prompts.items()
        ],
        "l": [[[_rounded(nats), tokens] for nats, tokens in query] for query in entry.likelihoods],
        "t": entry.tokens,
        "c": round(entry.seconds, 3),
    }
    return {key: value for key, value in full.items() if value not in (None, 0, [], {}) or key == "s"}


def _parts(prompt: str, question: str) -> Iterable[str]:
    """A prompt as the template's text around the question, which most prompts share."""
    before, found, after = prompt.rpartition(question) if question else ("", "", prompt)
    return (before, found, after) if found else (prompt,)


def _readable(detail: Mapping[str, Any]) -> str:
    return json.dumps(detail, ensure_ascii=False, indent=1, default=str)


def _rounded(value: float | None) -> float | None:
    """Six significant digits; None where it is no finite number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _middle_out(text: str, limit: int) -> str:
    """The text, or its beginning and its end with what is missing named between them."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[... {len(text) - head - tail} characters are left out here ...]\n{text[-tail:]}"
