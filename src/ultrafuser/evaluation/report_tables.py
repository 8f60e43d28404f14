"""What the report's tables and error bars show, as text and positions; the template only lays it out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ultrafuser.evaluation.compare import Comparison
from ultrafuser.evaluation.record import Entry, Run
from ultrafuser.evaluation.showing import COUNTED
from ultrafuser.evaluation.units import (
    PERCENT,
    RATING,
    difference_text,
    ends_text,
    interval_text,
    p_text,
    score_text,
    unit_of,
)

__all__ = ["benchmark_blocks", "facts", "gate_tables", "matrix", "settings_tables"]

MANY_GROUPS = 24  # more than this many groups are left out of the table of gate weights


def benchmark_blocks(comparison: Comparison) -> list[dict[str, Any]]:
    """Per benchmark its runs' scores with error bars, the other metrics, and the sub-scores."""
    blocks = []
    for name, table in comparison.benchmarks.items():
        summaries: dict[str, dict[str, Any]] = table["scores"]
        groups = list(dict.fromkeys(group for one in summaries.values() for group in one["groups"]))
        scale = _scale(table["unit"], _all_figures(summaries.values()))
        rows = [
            _figures(summary, table["unit"], scale)
            | {"run": run, "best": run == table["best"], "against": _against(table, run), **_counts(summary)}
            for run, summary in summaries.items()
        ]
        blocks.append(
            {
                "name": name,
                "title": table["title"],
                "metric": table["metric"],
                "lower": not table["higher_is_better"],
                "verdict": table["verdict"] if len(summaries) > 1 else "",
                "axis": [score_text(end, table["unit"]) for end in scale],
                "rows": rows,
                "tested": [row for row in rows if row["against"] is not None],
                "counted": list(COUNTED.values()),
                "also": list(_also(summaries)),
                "groups": [_group_row(group, summaries, table["unit"], scale) for group in groups],
            }
        )
    return blocks


def matrix(comparison: Comparison) -> list[dict[str, Any]]:
    """The paper's Table 1: a row per run, a column per benchmark, the average, and the oracle row."""
    average, oracle = comparison.average, comparison.oracle
    rows = []
    for run in comparison.runs:
        cells = []
        for table in comparison.benchmarks.values():
            score = table["scores"].get(run, {}).get("score")
            cells.append({"text": score_text(score, table["unit"]), "best": run == table["best"], "note": ""})
        mean = score_text(average["scores"][run]["score"], PERCENT) if average else None
        rows.append({"run": run, "cells": cells, "average": mean, "oracle": False})
    if oracle is not None:
        cells = []
        for name, table in comparison.benchmarks.items():
            best = oracle["scores"].get(name)
            text = score_text(best["score"] if best else None, table["unit"])
            cells.append({"text": text, "best": False, "note": best["run"] if best else ""})
        mean = score_text(oracle["average"], PERCENT) if average else None
        rows.append({"run": "best of the others, per benchmark", "cells": cells, "average": mean, "oracle": True})
    return rows


def facts(runs: Sequence[Run], comparison: Comparison) -> dict[str, Any]:
    """The page's title and lead."""
    entries = [entry for run in runs for rows in run.entries.values() for entry in rows]
    seconds = sum(entry.seconds for entry in entries)
    models = [str(run.settings.get("model", name)) for run, name in zip(runs, comparison.runs, strict=True)]
    return {
        "title": f"Evaluation of {models[0]}" if len(runs) == 1 else f"{len(runs)} runs compared",
        "models": list(zip(comparison.runs, models, strict=True)),
        "answers": len(entries),
        "time": _duration(seconds),
    }


def gate_tables(runs: Sequence[Run], comparison: Comparison, names: Sequence[str]) -> list[dict[str, Any]]:
    """Per run with a gate: mean weight of each specialist over the response tokens of each benchmark and group."""
    tables = []
    for run, run_name in zip(runs, comparison.runs, strict=True):
        rows = []
        for benchmark, entries in run.entries.items():
            means = _mean_weights(entries, names)
            if means is None:
                continue
            rows.append({"label": benchmark, "group": False, "weights": means})
            groups = list(dict.fromkeys(entry.group for entry in entries if entry.group is not None))
            if 1 < len(groups) <= MANY_GROUPS:
                for group in groups:
                    inner = _mean_weights([entry for entry in entries if entry.group == group], names)
                    if inner is not None:
                        rows.append({"label": group, "group": True, "weights": inner})
        if rows:
            tables.append({"run": run_name, "rows": rows})
    return tables


def settings_tables(runs: Sequence[Run], comparison: Comparison) -> list[dict[str, Any]]:
    """Per run: its subject, its calls, and per benchmark its settings and where the data came from."""
    tables = []
    for run, name in zip(runs, comparison.runs, strict=True):
        settings = run.settings
        calls = [
            {
                "date": call.get("date", ""),
                "command": shlex.join(map(str, call.get("command", ()))),
                "versions": ", ".join(f"{package} {v}" for package, v in call.get("versions", {}).items() if v),
            }
            for call in settings.get("calls", ())
        ]
        benchmarks = [
            {"name": benchmark, "leaves": list(_leaves(about))} for benchmark, about in settings["benchmarks"].items()
        ]
        subject = list(_leaves({"model": settings.get("model"), **settings.get("subject", {})}))
        tables.append({"run": name, "subject": subject, "calls": calls, "benchmarks": benchmarks})
    return tables


def _figures(summary: Mapping[str, Any], unit: str, scale: tuple[float, float]) -> dict[str, Any]:
    """Score, interval and exact interval as text, with the error bar's positions from 0 to 100."""
    interval, exact = summary.get("ci95"), summary.get("exact95")
    drawn = exact if interval is None or (exact is not None and interval[0] == interval[1]) else interval
    return {
        "score": score_text(summary["score"], unit),
        "interval": interval_text(summary, unit),
        "bootstrap": "" if interval is None else ends_text(interval, unit),
        "exact": "" if exact is None else ends_text(exact, unit),
        "n": summary["n"],
        "note": summary.get("note", ""),
        "dot": None if summary["score"] is None else _position(summary["score"], scale),
        "bar": None if drawn is None else [_position(end, scale) for end in drawn],
    }


def _scale(unit: str, figures: Sequence[float]) -> tuple[float, float]:
    if unit == PERCENT:
        return 0.0, 1.0
    if unit == RATING:
        return 1.0, 10.0
    low, high = min(figures, default=0.0), max(figures, default=1.0)
    margin = (high - low) * 0.05 or 0.5
    return low - margin, high + margin


def _all_figures(summaries: Any) -> list[float]:
    parts = [part for summary in summaries for part in (summary, *summary["groups"].values())]
    ends = [end for part in parts for end in part.get("ci95") or ()]
    return ends + [part["score"] for part in parts if part["score"] is not None]


def _position(value: float, scale: tuple[float, float]) -> float:
    low, high = scale
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def _group_row(
    group: str, summaries: Mapping[str, Mapping[str, Any]], unit: str, scale: tuple[float, float]
) -> dict[str, Any]:
    having = {run: summary["groups"][group] for run, summary in summaries.items() if group in summary["groups"]}
    return {"group": group, "cells": [_figures(one, unit, scale) | {"run": run} for run, one in having.items()]}


def _also(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The other metrics: one row each, a figure per run."""
    for metric in dict.fromkeys(name for one in summaries.values() for name in one["also"]):
        having = {run: one["also"].get(metric) for run, one in summaries.items()}
        unit = unit_of(metric, [one["score"] for one in having.values() if one and one["score"] is not None])
        cells = [
            {"run": run, "text": score_text(one["score"], unit), "interval": interval_text(one, unit)}
            for run, one in having.items()
            if one
        ]
        yield {"metric": metric, "cells": cells}


def _counts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What to know before believing the score, and what it took."""
    counts = summary["counts"]
    tokens = "–" if counts["mean_tokens"] is None else f"{counts['mean_tokens']:.0f}"
    return {
        "counts": [counts[key] for key in COUNTED],
        "answers": counts["answers"],
        "tokens": tokens,
        "time": _duration(summary["seconds"]),
    }


def _against(table: Mapping[str, Any], run: str) -> dict[str, Any] | None:
    test = table["against"].get(run)
    if test is None:
        return None
    return {
        "difference": difference_text(test["difference"], table["unit"]),
        "interval": ""
        if test["ci95"] is None
        else " to ".join(difference_text(e, table["unit"]) for e in test["ci95"]),
        "p": p_text(test["p"]),
        "beyond": test["better"] is not None,
        "n": test["n"],
        "test": test["test"],
        "table": test.get("table"),
    }


def _mean_weights(entries: Sequence[Entry], names: Sequence[str]) -> list[float | None] | None:
    """Mean over response tokens, in the order of `names`; None for specialists that this model does not have."""
    rows = [(entry.gate_weights, max(entry.tokens, 1)) for entry in entries if entry.gate_weights]
    if not rows:
        return None
    total = sum(tokens for _, tokens in rows)
    own = {name for weights, _ in rows for name in weights}
    return [sum(w.get(name, 0.0) * t for w, t in rows) / total if name in own else None for name in names]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif value is not None and value != []:
        yield " ".join(path).replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
