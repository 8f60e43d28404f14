"""Reading a judge's reply: the verdict or the rating on its last line of that kind, or None."""

from __future__ import annotations

import re

__all__ = ["ANSWER_A", "ANSWER_B", "TIE", "read_choice", "read_rating", "read_verdict"]

ANSWER_A, ANSWER_B, TIE = "A", "B", "tie"
_LOWEST, _HIGHEST = 1.0, 10.0

_BEFORE = r"(?:.*[.!?]\W*\s)?\W*(?:(?:my|the|final|overall)\W+)*"  # whole sentences may stand before it
_VERDICT = re.compile(
    _BEFORE + r"verdict(?:\W+is)?\W+"
    r"(?:(?:answer|response|option)\W+)?(?P<value>a|b|tie|draw|equal)"
    r"(?:\W+(?:is|wins)(?:\W+(?:\w+\W+)?better)?)?\W*",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    _BEFORE
    + r"verdict(?:\W+is)?\W+(?:(?:assistant|answer|option)\W+)?(?P<value>[a-z])(?:\W+(?:is|wins)(?:\W+\w+)*)?\W*",
    re.IGNORECASE,
)
_RATING = re.compile(
    _BEFORE + r"rating(?:\W+is)?[^\w\-+]+"
    r"(?P<value>\d+(?:\.\d+)?)(?:\s*/\s*10|\s+out\s+of\s+10|\s*\(out of 10\))?\W*",
    re.IGNORECASE,
)


def read_verdict(reply: str) -> str | None:
    """ANSWER_A, ANSWER_B or TIE, from a line such as `Verdict: A`; of several lines the last one counts."""
    value = _last(_VERDICT, reply)
    if value is None:
        return None
    return {"a": ANSWER_A, "b": ANSWER_B}.get(value.lower(), TIE)


def read_rating(reply: str) -> float | None:
    """A number from 1 to 10, from a line such as `Rating: 7`; of several lines the last one counts.

    What lies outside of 1 to 10 is no rating.
    """
    value = _last(_RATING, reply)
    if value is None or not _LOWEST <= float(value) <= _HIGHEST:
        return None
    return float(value)


def read_choice(reply: str, letters: str) -> str | None:
    """One of `letters`, from a line such as `Verdict: C`; of several lines the last one counts."""
    value = _last(_CHOICE, reply)
    return value.upper() if value is not None and value.upper() in letters else None


def _last(pattern: re.Pattern[str], reply: str) -> str | None:
    found = (pattern.fullmatch(line) for line in reversed(reply.splitlines()))
    return next((match["value"] for match in found if match), None)
