"""A table's entry by name, or an error that lists the choices and the nearest name."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name` (case and `-`/`_` ignored), or None when nothing comes close."""
    folded: dict[str, str] = {}
    for choice in choices:
        folded.setdefault(_fold(choice), choice)
    found = get_close_matches(_fold(name), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`; did you mean 'token'?`, or an empty string when no choice comes close."""
    close = nearest(name, choices)
    return f"; did you mean {close!r}?" if close is not None else ""


def lookup(table: Mapping[str, T], name: str, field: str) -> T:
    """The entry `name` of `table`; `field` is the recipe path or argument that the name came from.

    Raises ValueError, for example `gate.type: 'tokn' is not one of constant, joint, token; did you mean 'token'?`. An
    empty name in the table is what leaving the field out means.
    """
    if name in table:
        return table[name]
    choices = sorted(choice for choice in table if choice)
    if not choices:
        raise ValueError(f"{field}: {name!r} was asked for, but there is nothing to choose from")
    or_none = ", nor left out" if "" in table else ""
    raise ValueError(f"{field}: {name!r} is not one of {', '.join(choices)}{or_none}{did_you_mean(str(name), choices)}")


def _fold(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
