"""How scores are written: shares as percent, ratings out of ten, losses in nats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "PERCENT",
    "PLAIN",
    "RATING",
    "RATINGS",
    "difference_text",
    "ends_text",
    "interval_text",
    "item_score_text",
    "p_text",
    "score_text",
    "unit_of",
]

PERCENT, RATING, PLAIN = "percent", "rating", "plain"
RATINGS = frozenset({"rating", "rating_first_turn", "rating_second_turn"})  # metrics from 1 to 10
_FORMATS = {PERCENT: (100.0, 1), RATING: (1.0, 2), PLAIN: (1.0, 3)}  # factor, decimals


def unit_of(metric: str, values: Iterable[float], *, higher_is_better: bool = True) -> str:
    """Percent for shares (all within 0 to 1, higher is better), rating for those of `RATINGS`, else plain numbers."""
    if metric in RATINGS:
        return RATING
    return PERCENT if higher_is_better and all(0 <= value <= 1 for value in values) else PLAIN


def score_text(value: float | None, unit: str) -> str:
    """A score as tables show it: 61.6 for a share of 0.616, 7.02 for a rating, 1.874 for a loss; a dash for none."""
    factor, decimals = _FORMATS[unit]
    return "–" if value is None else f"{factor * value:.{decimals}f}"


def interval_text(summary: Mapping[str, Any], unit: str) -> str:
    """A score's interval; where all items score the same and the bootstrap has no width, the exact one of so many."""
    ends, exact = summary.get("ci95"), summary.get("exact95")
    if exact is not None and (ends is None or ends[0] == ends[1]):
        return f"{ends_text(exact, unit)} (exact)"
    return "" if ends is None else ends_text(ends, unit)


def ends_text(ends: Sequence[float], unit: str) -> str:
    """Both ends of an interval."""
    return " to ".join(score_text(end, unit) for end in ends)


def item_score_text(value: float | None, unit: str) -> str:
    """One item's score in words where it is simply right or wrong."""
    words = {1.0: "right", 0.0: "wrong"} if unit == PERCENT else {}
    return score_text(value, unit) if value is None else words.get(value, score_text(value, unit))


def difference_text(value: float | None, unit: str) -> str:
    """A difference with its sign; of percentages, in points."""
    factor, decimals = _FORMATS[unit]
    return "–" if value is None else f"{factor * value:+.{decimals}f}".replace("-", "−")


def p_text(p: float | None) -> str:
    """`p = 0.031`, or `p < 0.001`."""
    if p is None:
        return "no test"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
