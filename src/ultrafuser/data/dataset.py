"""Conversations as token ids, one prompt per specialist and one response for all, ready to be drawn by index.

Ids are kept as int32 arrays (4 bytes a token, responses once), so that hundreds of thousands of examples fit in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from ultrafuser.data.conversations import Conversation
from ultrafuser.templates import Encoded, TooLong, encode_conversation

__all__ = ["Example", "ResponseDataset"]


@dataclass(frozen=True)
class Example:
    """One conversation as ids: specialist j reads prompts[j][0], responses[0], prompts[j][1], responses[1], ..."""

    id: str
    category: int
    prompts: list[list[np.ndarray]]  # [specialist][turn] -> ids
    responses: list[np.ndarray]  # [turn] -> ids, each ending in eos
    family: str | None = None

    @property
    def n_response_tokens(self) -> int:
        """Tokens the loss is taken on."""
        return sum(map(len, self.responses))

    @property
    def length(self) -> int:
        """Tokens of the longest specialist's sequence."""
        return max(sum(map(len, turns)) for turns in self.prompts) + self.n_response_tokens


class ResponseDataset:
    """Encoded conversations of one or more categories; knows ids and categories, neither tensors nor batches.

    `dropped` counts, by category, the conversations that were longer than `max_length` and left out.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        categories: Sequence[str],
        *,
        n_specialists: int,
        max_length: int | None = None,
        dropped: dict[str, int] | None = None,
    ) -> None:
        self.examples = list(examples)
        self.categories = list(categories)
        self.n_specialists = n_specialists
        self.max_length = max_length
        self.dropped = dict.fromkeys(categories, 0) | (dropped or {})
        self.category_index = np.array([example.category for example in self.examples], dtype=np.int64)
        self.lengths = np.array([example.length for example in self.examples], dtype=np.int64)

    @classmethod
    def from_conversations(
        cls,
        conversations: Sequence[Conversation],
        templates: Sequence[str],
        tokenizer: Any,
        *,
        max_length: int | None = None,
        on_too_long: Literal["drop", "error"] = "drop",
        categories: Sequence[str] | None = None,
        part: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> ResponseDataset:
        """Encodes every conversation; `templates` are Jinja sources, one per specialist.

        A conversation over `max_length` tokens is dropped and counted, or an error, as `on_too_long` says: its answer
        is never cut. `categories` fixes the order of the categories (default: as they come), `part` ("validation") is
        named in errors. Raises ValueError when nothing is left, or nothing of a category.
        """
        if on_too_long not in ("drop", "error"):
            raise ValueError(f"on_too_long: {on_too_long!r} is not one of drop, error")
        suffix = f".{part}" if part else ""
        names = list(categories) if categories is not None else list(dict.fromkeys(c.category for c in conversations))
        index = {name: place for place, name in enumerate(names)}
        examples, dropped, longest = [], Counter[str](), Counter[str]()
        for done, conversation in enumerate(conversations):
            name = conversation.category
            if name not in index:
                raise ValueError(f"data.{name}{suffix}: not one of the categories {', '.join(names)}")
            try:
                encoded = encode_conversation(conversation.messages, templates, tokenizer, max_length=max_length)
                examples.append(_example(conversation, index[name], encoded))
            except TooLong as error:
                if on_too_long == "error":
                    raise ValueError(f"data.{name}{suffix}: conversation {conversation.id}: {error}") from None
                dropped[name] += 1
                longest[name] = max(longest[name], error.length)
            except ValueError as error:
                raise ValueError(f"data.{name}{suffix}: conversation {conversation.id}: {error}") from None
            if progress is not None:
                progress(done + 1, len(conversations))
        found = cls(examples, names, n_specialists=len(templates), max_length=max_length, dropped=dict(dropped))
        found._refuse_empty(longest, suffix)
        return found

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def counts(self) -> dict[str, int]:
        """Number of examples by category."""
        found = np.bincount(self.category_index, minlength=len(self.categories))
        return {name: int(count) for name, count in zip(self.categories, found, strict=True)}

    def response_tokens(self) -> dict[str, int]:
        """Number of response tokens by category: equal examples are not equal tokens."""
        found = dict.fromkeys(self.categories, 0)
        for example in self.examples:
            found[self.categories[example.category]] += example.n_response_tokens
        return found

    def groups(self) -> list[np.ndarray]:
        """The indices of each category's examples, in the order of `categories`."""
        return [np.flatnonzero(self.category_index == place) for place in range(len(self.categories))]

    def subset(self, indices: Sequence[int]) -> ResponseDataset:
        """The examples at `indices`, with the same categories."""
        examples = [self.examples[index] for index in indices]
        return ResponseDataset(examples, self.categories, n_specialists=self.n_specialists, max_length=self.max_length)

    def content_hash(self) -> str:
        """sha256 over categories, order and every id: two data sets with the same hash train the same."""
        digest = sha256(repr((self.categories, self.n_specialists, len(self))).encode())
        for example in self.examples:
            digest.update(f"|{example.category}".encode())
            for turn in [*(turn for turns in example.prompts for turn in turns), *example.responses]:
                digest.update(f",{len(turn)}:".encode())
                digest.update(turn.tobytes())
        return digest.hexdigest()

    def _refuse_empty(self, longest: Counter[str], suffix: str) -> None:
        if not self.categories:
            raise ValueError("data: no category is named; give at least one with its files")
        for name, count in self.counts().items():
            if count:
                continue
            if self.dropped[name]:
                raise ValueError(
                    f"data.{name}{suffix}: all {self.dropped[name]} conversations are longer than max_length "
                    f"{self.max_length} (the longest takes {longest[name]} tokens); raise it or give shorter ones"
                )
            raise ValueError(f"data.{name}{suffix}: no conversation; give files that hold some or remove the category")


def _example(conversation: Conversation, category: int, encoded: Encoded) -> Example:
    if any(not turns[0] for turns in encoded.prompt_ids):
        raise ValueError("a template renders an empty prompt, so nothing could predict the first response token")
    responses = [_ids(turn) for turn in encoded.response_ids]
    memory: dict[tuple[int, ...], np.ndarray] = {}  # specialists that share a template share the arrays
    prompts = [[memory.setdefault(tuple(turn), _ids(turn)) for turn in turns] for turns in encoded.prompt_ids]
    return Example(conversation.id, category, prompts, responses, conversation.family)


def _ids(turn: Sequence[int]) -> np.ndarray:
    return np.asarray(turn, dtype=np.int32)
