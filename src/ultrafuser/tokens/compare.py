"""Whether tokenizers contradict each other, id by id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["difference"]


def difference(tokenizers: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first specialist whose tokenizer contradicts the first one's, and how; None where all go together.

    Equal sizes prove nothing, so ids are compared one by one. An id that only one tokenizer knows is no contradiction:
    padding, or a token added at the end.
    """
    names = list(tokenizers)
    if len(names) < 2:
        return None
    first = {index: token for token, index in tokenizers[names[0]].get_vocab().items()}
    for name in names[1:]:
        own = {index: token for token, index in tokenizers[name].get_vocab().items()}
        other = sorted(index for index in own.keys() & first.keys() if own[index] != first[index])
        if other:
            i, sizes = other[0], f"{len(own)} and {len(first)} tokens"
            return name, (
                f"its tokenizer is not that of {names[0]} ({sizes}, {len(other)} ids differ; the first is {i}: "
                f"{own[i]!r} here, {first[i]!r} there)"
            )
    return None
