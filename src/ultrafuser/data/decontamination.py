"""13-gram overlap between training and test texts, as the paper filters its training data (Ding et al., ACL 2025).

Words are runs of letters and digits, lower-cased. It compares words, not meaning: a paraphrase passes. A text of fewer
than 13 words has no 13-gram; `decontaminate` therefore also compares short first prompts as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from ultrafuser.data.conversations import Conversation

__all__ = ["LENGTH", "Decontaminated", "OverlapIndex", "decontaminate", "grams", "words"]

LENGTH = 13
_WORD = re.compile(r"[^\W_]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits."""
    return _WORD.findall(text.lower())


def _word_hash(word: str, memory: dict[str, int]) -> int:
    found = memory.get(word)
    if found is None:
        found = memory[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
    return found


def grams(text: str, length: int = LENGTH, memory: dict[str, int] | None = None) -> np.ndarray:
    """64-bit hashes of the word n-grams of a text, in order; none when it has fewer words than `length`."""
    found = words(text)
    if len(found) < length:
        return np.empty(0, dtype=np.uint64)
    memory = {} if memory is None else memory
    hashes = np.fromiter((_word_hash(word, memory) for word in found), dtype=np.uint64, count=len(found))
    count = len(found) - length + 1
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        total = total * _FACTOR + hashes[offset : offset + count]
    return total


class OverlapIndex:
    """The word n-grams of a set of texts: of each one its hash, and the number of the first text that has it."""

    def __init__(self, texts: Iterable[str], length: int = LENGTH) -> None:
        if length < 1:
            raise ValueError(f"length: {length} is below 1; the paper compares {LENGTH}-grams")
        self.length = length
        self._memory: dict[str, int] = {}
        found = [grams(text, length, self._memory) for text in texts]
        whole = np.concatenate([np.empty(0, dtype=np.uint64), *found])
        self._grams, first = np.unique(whole, return_index=True)
        sizes = np.fromiter((len(one) for one in found), dtype=np.int64, count=len(found))
        self._owners = np.repeat(np.arange(len(found), dtype=np.int32), sizes)[first]

    def __len__(self) -> int:
        return len(self._grams)

    def _hits(self, text: str) -> np.ndarray:
        mine = grams(text, self.length, self._memory)
        if not len(self._grams) or not len(mine):
            return np.zeros(len(mine), dtype=bool)
        places = np.minimum(np.searchsorted(self._grams, mine), len(self._grams) - 1)
        return self._grams[places] == mine

    def hits(self, text: str) -> bool:
        """Whether the text shares an n-gram with the set."""
        return bool(self._hits(text).any())

    def first_hit(self, text: str) -> str | None:
        """The first shared n-gram of the text, as words; None when there is none."""
        found = self.find(text)
        return None if found is None else found[0]

    def find(self, text: str) -> tuple[str, int] | None:
        """The first shared n-gram of the text, as words, and the number of the first text of the set that has it."""
        hits = self._hits(text)
        if not hits.any():
            return None
        start = int(hits.argmax())
        shared = words(text)[start : start + self.length]
        place = int(np.searchsorted(self._grams, grams(" ".join(shared), self.length, self._memory)[0]))
        return " ".join(shared), int(self._owners[place])


@dataclass(frozen=True)
class Decontaminated:
    """What is left of a set of conversations, and for each one removed the n-gram it shares with the test texts."""

    kept: list[Conversation]
    removed: list[tuple[Conversation, str]] = field(default_factory=list)


def decontaminate(
    conversations: Sequence[Conversation], against: Sequence[Conversation], length: int = LENGTH
) -> Decontaminated:
    """Training conversations without those that share an n-gram, in any message, with the test conversations.

    A first prompt of fewer than `length` words counts as shared when its words equal a test prompt's. System messages
    are left out of both sides: they are boilerplate and would match everywhere.
    """
    index = OverlapIndex((text for conversation in against for text in _spoken(conversation)), length)
    short = {prompt for conversation in against if (prompt := _short_prompt(conversation, length))}
    kept, removed = [], []
    for conversation in conversations:
        hit = next((found for text in _spoken(conversation) if (found := index.first_hit(text))), None)
        if hit is None and (prompt := _short_prompt(conversation, length)) in short:
            hit = " ".join(prompt)
        if hit is None:
            kept.append(conversation)
        else:
            removed.append((conversation, hit))
    return Decontaminated(kept, removed)


def _spoken(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages if message["role"] != "system"]


def _short_prompt(conversation: Conversation, length: int) -> tuple[str, ...]:
    found = tuple(words(_spoken(conversation)[0]))
    return found if len(found) < length else ()
