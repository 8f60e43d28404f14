"""Given answers as examples in the training form, in one tokenizer for all specialists or in each one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ultrafuser.data.dataset import Example
from ultrafuser.templates import encode_responses
from ultrafuser.templates.encode import encode_answers, shared_places

__all__ = ["answer_ids", "example_of_ids", "tokens_of"]

Turns = Sequence[Sequence[int]]


def tokens_of(model: Any, tokenizer: Any) -> Any:
    """What `templates.encode_prompt` and its kin take: the tokenizer, or the specialists' tables where they differ."""
    return tokenizer if model.alignment is None else model.alignment.tables


def answer_ids(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Answers as (canonical) ids, each ending in the end-of-sequence token."""
    if model.alignment is None:
        return encode_responses(texts, tokenizer)
    return encode_answers(texts, model.alignment.tables[0])


def example_of_ids(model: Any, prompts: Sequence[Turns], responses: Turns) -> Example:
    """Prompts as [specialist][turn][ids] and answers as [turn][canonical ids] as one example.

    The answers stay cut as they are given. Where tokenizers differ, each other specialist reads its tokenizer's own
    cutting of their bytes, and takes part where one of its tokens ends.
    """
    labels = [_array(ids) for ids in responses]
    arrays = [[_array(ids) for ids in turns] for turns in prompts]
    if model.alignment is None:
        return Example(id="", category=0, prompts=arrays, responses=labels)
    alignment = model.alignment
    own: list[list[list[int]]] = [[list(ids) for ids in responses]]
    own += [[_read_by(alignment, j, ids) for ids in responses] for j in range(1, len(alignment.tables))]
    first = alignment.tables[0]
    places = [shared_places(responses, first, turns, table) for turns, table in zip(own, alignment.tables, strict=True)]
    return Example(
        id="",
        category=0,
        prompts=arrays,
        responses=labels,
        own=[[_array(ids) for ids in turns] for turns in own],
        places=[[_array(turn) for turn in turns] for turns in places],
    )


def _read_by(alignment: Any, j: int, ids: Sequence[int]) -> list[int]:
    """Specialist j's tokens of an answer in canonical ids, with its own end of sequence where it has one."""
    table, ended = alignment.tables[j], bool(len(ids)) and ids[-1] in alignment.eos[0]
    own = table.encode(alignment.tables[0].bytes_of(ids))
    return [*own, table.end] if ended else own


def _array(ids: Sequence[int]) -> np.ndarray:
    return np.asarray(ids, dtype=np.int64)
