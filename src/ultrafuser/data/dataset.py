"""Conversations as token ids, one prompt per specialist and one response for all, ready to be drawn by index.

Ids are kept as int32 arrays (4 bytes a token, responses once), so that hundreds of thousands of examples fit in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from ultrafuser.data.conversations import Conversation
from ultrafuser.templates import Encoded, TooLong, encode_conversation

__all__ = ["Example", "ResponseDataset", "example_of"]


@dataclass(frozen=True)
class Example:
    """One conversation as ids: specialist j reads prompts[j][0], responses[0], prompts[j][1], responses[1], ...

    Where tokenizers differ it reads own[j] instead of the responses, which are the labels, and places[j] holds for each
    label how many tokens of own[j] stand before it in its turn, -1 where none ends there (`templates.Encoded`).
    """

    id: str
    category: int
    prompts: list[list[np.ndarray]]  # [specialist][turn] -> ids
    responses: list[np.ndarray]  # [turn] -> ids, each ending in eos
    family: str | None = None
    own: list[list[np.ndarray]] | None = None  # [specialist][turn] -> ids of the answer in its own tokenizer
    places: list[list[np.ndarray]] | None = None  # [specialist][turn] -> as many numbers as labels
    n_bytes: int = 0  # of all answers in UTF-8

    @property
    def n_response_tokens(self) -> int:
        """Tokens the loss is taken on."""
        return sum(map(len, self.responses))

    @property
    def length(self) -> int:
        """Tokens of the longest specialist's sequence."""
        if self.own is None:
            return max(sum(map(len, turns)) for turns in self.prompts) + self.n_response_tokens
        return max(sum(map(len, turns)) for turns in map(list.__add__, self.prompts, self.own))

    def of_one(self, specialist: int) -> Example:
        """The same conversation for one specialist alone, its labels its own tokens."""
        responses = self.responses if self.own is None else self.own[specialist]
        return Example(self.id, self.category, [self.prompts[specialist]], responses, self.family, n_bytes=self.n_bytes)

    def sequence(self, specialist: int) -> tuple[np.ndarray, np.ndarray]:
        """What a specialist reads, and for each label the position before it, whose hidden state predicts it.

        That position is -1 where the specialist's own tokens have no boundary before the label.
        """
        parts: list[np.ndarray] = []
        found: list[np.ndarray] = []
        at = 0
        responses = self.responses if self.own is None else self.own[specialist]
        for turn, (prompt, response) in enumerate(zip(self.prompts[specialist], responses, strict=True)):
            parts += [prompt, response]
            at += len(prompt)
            if self.places is None:
                found.append(np.arange(at - 1, at - 1 + len(response)))
            else:
                places = self.places[specialist][turn].astype(np.int64)
                found.append(np.where(places >= 0, at - 1 + places, -1))
            at += len(response)
        return np.concatenate(parts), np.concatenate(found)


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
        """Encodes every conversation; `templates` are Jinja sources, one per specialist, `tokenizer` the one of all or,
        where tokenizers differ, a sequence of their TokenTables, the canonical one first.

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
                examples.append(example_of(encoded, index[name], conversation.id, conversation.family))
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

    def per_byte(self, losses: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        """Losses per response token, by method and category, as losses per byte of the answers."""
        n_bytes, tokens = dict.fromkeys(self.categories, 0), self.response_tokens()
        for example in self.examples:
            n_bytes[self.categories[example.category]] += example.n_bytes
        return {
            method: {name: loss * tokens[name] / max(n_bytes[name], 1) for name, loss in row.items()}
            for method, row in losses.items()
        }

    def participation(self) -> dict[str, list[float]] | None:
        """By category, the share of response tokens that each specialist takes part in predicting; None where
        tokenizers are the same, and it is all of them."""
        if any(example.places is None for example in self.examples):
            return None
        counts = {name: np.zeros(self.n_specialists) for name in self.categories}
        for example in self.examples:
            taken = [sum(int((turn >= 0).sum()) for turn in turns) for turns in example.places or []]
            counts[self.categories[example.category]] += taken
        totals = self.response_tokens()
        return {name: (found / max(totals[name], 1)).tolist() for name, found in counts.items()}

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
            apart = [*(example.own or []), *(example.places or [])]
            for turn in [*(turn for turns in [*example.prompts, *apart] for turn in turns), *example.responses]:
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


def example_of(encoded: Encoded, category: int, name: str = "", family: str | None = None) -> Example:
    """An encoded conversation as an example. Raises ValueError where a prompt is empty."""
    if any(not turns[0] for turns in encoded.prompt_ids):
        raise ValueError("a template renders an empty prompt, so nothing could predict the first response token")
    memory: dict[tuple[int, ...], np.ndarray] = {}  # specialists that share a template share the arrays

    def arrays(of_all: list[list[list[int]]]) -> list[list[np.ndarray]]:
        return [[memory.setdefault(tuple(turn), _ids(turn)) for turn in turns] for turns in of_all]

    return Example(
        name,
        category,
        arrays(encoded.prompt_ids),
        [_ids(turn) for turn in encoded.response_ids],
        family,
        None if encoded.own is None else arrays(encoded.own),
        None if encoded.places is None else arrays(encoded.places),
        encoded.n_bytes,
    )


def _ids(turn: Sequence[int]) -> np.ndarray:
    return np.asarray(turn, dtype=np.int32)
