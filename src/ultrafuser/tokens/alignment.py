"""How the ids of several tokenizers answer each other: one vocabulary of byte strings that holds them all.

Legend: V_j ids of tokenizer j, U union entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ultrafuser.tokens.table import TokenTable

__all__ = ["Alignment"]

MISSING = -1
LEAST_TOKENS = 0.05
"""Below this share of canonical tokens that another tokenizer has too, fusing is refused: it would hardly take part."""
LEAST_BYTES = 0.5
"""The same for the share of bytes of ordinary text, code and numbers (`TRIAL`) in such tokens."""
TRIAL = """Dear reader, the weather was fine on Tuesday; in the evening, however, it began to rain, and we stayed in.
First we add the two numbers: 128 + 37 = 165. Then we multiply by 3, which gives 495. The answer is 495.

def largest(values: list[int]) -> int:
    best = values[0]
    for value in values[1:]:
        if value > best:
            best = value
    return best

for (int i = 0; i < n; i++) { total += weights[i] * x[i]; }  // dot product
"""


class Alignment:
    """The union vocabulary of several tokenizers, the canonical one first.

    Entries 0..V_0-1 are the canonical ids as they are; after them comes each further byte string that another tokenizer
    has as a token. Byte strings are compared whole, never by prefix. A string that one tokenizer has twice (a piece and
    a byte piece) has two entries. All ids that end an answer are one event, the canonical `end`.

    Fields:
        tables: the tokenizers, canonical first.
        strings: the byte strings of the entries from V_0 on.
        size: U.
        to_union: per tokenizer (V_j,) int64: the entry of each id, -1 for tokens without text.
        from_union: per tokenizer (U,) int64: the id of each entry, -1 where it has none; for `end` the id it writes.
        eos: per tokenizer (E_j,) int64, all its ids that end an answer, the one it writes first.
        end: the entry that ends an answer.
        overlap: per tokenizer the share of the canonical tokens with text that it has too.
    """

    def __init__(self, tables: Sequence[TokenTable], names: Sequence[str] | None = None) -> None:
        """Align `tables`. Raises ValueError where a tokenizer (`names` for messages) has no end-of-sequence token."""
        names = list(names) if names is not None else [f"tokenizer {j}" for j in range(len(tables))]
        for name, table in zip(names, tables, strict=True):
            if table.end is None:
                raise ValueError(f"specialists.{name}: its tokenizer has no end-of-sequence token; set eos_token")
        self.tables = list(tables)
        first = self.tables[0]
        assert first.end is not None
        self.end = first.end
        self.strings: list[bytes] = []
        # A string's first token, and its further ones by how many come before: entries of the union so far.
        entries = dict(first.ids)
        again = {(text, rank): i for text, rank, i in first.copies}
        maps = [np.array([MISSING if t is None else i for i, t in enumerate(first.text)], dtype=np.int64)]
        maps += [self._join(table, entries, again) for table in self.tables[1:]]
        self.size = len(first) + len(self.strings)
        self.to_union: list[np.ndarray] = maps
        self.eos = [np.array([t.end, *sorted(t.eos - {t.end})], dtype=np.int64) for t in self.tables]
        self.from_union: list[np.ndarray] = []
        for own, ends in zip(self.to_union, self.eos, strict=True):
            back = np.full(self.size, MISSING, dtype=np.int64)
            known = np.flatnonzero(own != MISSING)
            back[own[known]] = known
            back[self.end] = ends[0]
            own[ends] = self.end
            self.from_union.append(back)
        texts = np.array([i for i, text in enumerate(first.text) if text is not None], dtype=np.int64)
        self.overlap = [float((back[texts] != MISSING).mean()) for back in self.from_union]

    def text(self, entry: int) -> bytes | None:
        """What an entry of the union spells; None for special tokens."""
        known = len(self.tables[0])
        return self.tables[0].text[entry] if entry < known else self.strings[entry - known]

    def coverage(self, j: int, data: bytes = TRIAL.encode()) -> float:
        """Share of the bytes of a text in canonical tokens that tokenizer j could have predicted as a whole: it has
        them too, and its own cutting of the text has a boundary before them."""
        first, other = self.tables[0], self.tables[j]
        starts = {0, *other.boundaries(other.encode(data))}
        ids, at, covered = first.encode(data), 0, 0
        for i, end in zip(ids, first.boundaries(ids), strict=True):
            covered += (end - at) * (at in starts and self.from_union[j][i] != MISSING)
            at = end
        return covered / max(len(data), 1)

    def check_overlap(self, names: Sequence[str]) -> None:
        """Raise ValueError, with the figures, where a tokenizer has too little in common with the canonical one."""
        for j, name in enumerate(names):
            tokens, covered = self.overlap[j], self.coverage(j)
            if tokens < LEAST_TOKENS or covered < LEAST_BYTES:
                raise ValueError(
                    f"specialists.{name}: its tokenizer has {tokens:.1%} of the tokens of {names[0]}'s (at least "
                    f"{LEAST_TOKENS:.0%} needed), which make up {covered:.1%} of ordinary text (at least "
                    f"{LEAST_BYTES:.0%}); fuse specialists whose tokenizers have more in common"
                )

    def _join(self, table: TokenTable, entries: dict[bytes, int], again: dict[tuple[bytes, int], int]) -> np.ndarray:
        """The entries of a tokenizer's ids (V_j,); strings that are new get one."""
        own = np.full(len(table), MISSING, dtype=np.int64)
        known, new = len(self.tables[0]), len(self.strings)
        for text, i in table.ids.items():
            entry = entries.get(text)
            if entry is None:
                entry = entries[text] = known + new
                self.strings.append(text)
                new += 1
            own[i] = entry
        for text, rank, i in table.copies:
            entry = again.get((text, rank))
            if entry is None:
                entry = again[text, rank] = known + new
                self.strings.append(text)
                new += 1
            own[i] = entry
        return own
