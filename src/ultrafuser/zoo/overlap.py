"""Word n-gram overlap between sets of texts (13-grams, as the paper filters its training data against the test sets)."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from ultrafuser.zoo.sources import records

LENGTH = 13
_WORD = re.compile(r"\w+")
_FACTOR = 0x9E3779B97F4A7C15


def grams(text: str, length: int = LENGTH) -> np.ndarray:
    """Hashes (uint64) of the word n-grams of a text, lower-cased, punctuation ignored; empty when it has fewer words."""
    words = _WORD.findall(text.lower())
    if len(words) < length:
        return np.empty(0, dtype=np.uint64)
    hashes = np.fromiter((crc32(word.encode()) for word in words), dtype=np.uint64, count=len(words))
    count = len(words) - length + 1
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        total = total * np.uint64(_FACTOR) + hashes[offset : offset + count] + np.uint64(1)
    return total


class OverlapIndex:
    """The n-grams of a set of texts; `hits(text)` tells whether a text shares one of them."""

    def __init__(self, texts: Iterable[str], length: int = LENGTH) -> None:
        found = [grams(text, length) for text in texts]
        self.length = length
        self.grams = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *found]))

    def hits(self, text: str) -> bool:
        """Whether the text shares an n-gram with the set."""
        mine = grams(text, self.length)
        if not len(mine) or not len(self.grams):
            return False
        places = np.minimum(np.searchsorted(self.grams, mine), len(self.grams) - 1)
        return bool((self.grams[places] == mine).any())


def strings(value: Any) -> Iterator[str]:
    """Every string inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from strings(child)


def benchmark_index(folder: Path) -> OverlapIndex:
    """Index of every string in the JSON Lines files of a folder of benchmarks; these are compared with, never trained on."""
    files = sorted(file for file in folder.glob("*.jsonl*") if file.is_file())
    return OverlapIndex(text for file in files for record in records(file) for text in strings(record))
