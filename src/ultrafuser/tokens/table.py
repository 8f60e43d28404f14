"""A tokenizer as a table of byte strings: ids to bytes, bytes to ids, without loss and without special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ultrafuser.tokens.spelling import adds_prefix_space, backend_of, piece_texts, without_prefix_space

__all__ = ["TokenTable"]

NEVER_IN_UTF8 = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])
LONGEST_MATCH = 32  # bytes tried where a tokenizer rewrites a text and it is spelt from the table instead
PROBES = (
    "The quick brown fox, isn't it? 12345.67 + 89 = x^2",
    " def f(x):\n    if x > 0:\n\treturn {'a': [x]}  # ok\r\n\r\n\n",
    "Überraschung – naïve café, 数学, \U0001f600\n\n  two  spaces  ",
)


class TokenTable:
    """What every id of a tokenizer spells, in bytes, and the tokenizer's own way of cutting an answer.

    Fields:
        text: bytes by id; None for special and control tokens and for rows without a token.
        ids: the id of a byte string; where several spell it, an ordinary piece before a byte piece, then the lowest.
        copies: further ids of a byte string, as (bytes, how many come before it, id).
        eos: all ids that end an answer; `end` is the one that is written, None where there is none.
        tokenizer: the Transformers tokenizer that it was read from.
    """

    def __init__(
        self, tokenizer: Any, rows: int | None = None, *, eos: Iterable[int] = (), field: str = "tokenizer"
    ) -> None:
        """Read the table of `tokenizer`, a fast Transformers tokenizer, for a head of `rows` rows.

        `eos`: further ids that end an answer. Raises ValueError naming `field` where its bytes cannot be recovered or a
        token has no row.
        """
        try:
            backend = backend_of(tokenizer)
            found, byte_ids = piece_texts(backend)
            self.text = _by_id(found, rows)
            self.end: int | None = getattr(tokenizer, "eos_token_id", None)
            self.eos = frozenset(i for i in (self.end, *eos) if i is not None)
            for i in self.eos:
                if not 0 <= i < len(self.text):
                    raise ValueError(f"tokenizer: end of sequence is token {i}, the head has {len(self.text)} rows")
                self.text[i] = None
            self.tokenizer = tokenizer
            self._copy = without_prefix_space(backend) if adds_prefix_space(backend) else None
            self._index(byte_ids)
            self._verify()
        except ValueError as error:
            raise ValueError(f"{field}: {str(error).removeprefix('tokenizer: ')}") from None

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.text)

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """What these ids spell together; special tokens spell nothing."""
        return b"".join([self.text[i] or b"" for i in ids])

    def boundaries(self, ids: Iterable[int]) -> list[int]:
        """After each id, how many bytes have been spelt: as many numbers as ids, the last the length of it all."""
        at, found = 0, []
        for i in ids:
            at += len(self.text[i] or b"")
            found.append(at)
        return found

    def encode(self, data: bytes) -> list[int]:
        """The tokenizer's own cutting of an answer (or of its continuation), without special tokens and prefix space.

        `bytes_of(encode(data)) == data` always: bytes that are no whole character become byte tokens, and what the
        tokenizer would rewrite (another Unicode form, a literal space mark) is spelt by the longest tokens that fit.
        Raises ValueError for a byte that never occurs in UTF-8 and that the tokenizer has no token for.
        """
        ids: list[int] = []
        for part, whole in _characters(data):
            if whole:
                ids += self._cut(part)
                continue
            for byte in part:
                found = self.ids.get(bytes([byte]))
                if found is None:
                    raise ValueError(f"tokenizer: has no token for the byte 0x{byte:02X}, which no UTF-8 text contains")
                ids.append(found)
        return ids

    def _cut(self, data: bytes) -> list[int]:
        ids = self._own_ids(data.decode())
        if self.bytes_of(ids) == data and all(self.text[i] is not None for i in ids):
            return ids
        return self._mend(ids, data)

    def _own_ids(self, text: str) -> list[int]:
        if self._copy is not None:
            return self._copy.encode(text, add_special_tokens=False).ids
        encoded = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        return encoded["input_ids"]

    def _mend(self, ids: Sequence[int], data: bytes) -> list[int]:
        """Keep the tokens that fit from both ends and spell what lies between them."""
        head, at = 0, 0
        while head < len(ids) and (text := self.text[ids[head]]) and data.startswith(text, at):
            at += len(text)
            head += 1
        tail, end = len(ids), len(data)
        while tail > head and (text := self.text[ids[tail - 1]]) and data.endswith(text, at, end):
            end -= len(text)
            tail -= 1
        between = []
        while at < end:
            size = next(n for n in range(min(LONGEST_MATCH, end - at), 0, -1) if data[at : at + n] in self.ids)
            between.append(self.ids[data[at : at + size]])
            at += size
        return [*ids[:head], *between, *ids[tail:]]

    def _index(self, byte_ids: set[int]) -> None:
        """`ids` and `copies`."""
        self.ids: dict[bytes, int] = {}
        again: dict[bytes, list[int]] = {}
        for i, text in enumerate(self.text):
            if text is None:
                continue
            first = self.ids.setdefault(text, i)
            if first != i:
                again.setdefault(text, [first]).append(i)
        self.copies: list[tuple[bytes, int, int]] = []
        for text, several in again.items():
            several.sort(key=lambda i: (i in byte_ids, i))
            self.ids[text] = several[0]
            self.copies += [(text, rank, i) for rank, i in enumerate(several) if rank]

    def _verify(self) -> None:
        missing = [byte for byte in range(256) if byte not in NEVER_IN_UTF8 and bytes([byte]) not in self.ids]
        if missing:
            raise ValueError(
                f"tokenizer: {len(missing)} bytes have no token of their own (the first 0x{missing[0]:02X}), so not "
                "every text can be written with it; fuse specialists of one tokenizer"
            )
        for probe in PROBES:
            if (found := self.bytes_of(self._own_ids(probe))) != probe.encode():
                raise ValueError(
                    f"tokenizer: its tokens do not spell the text that it was given ({probe[:20]!r}... came back as "
                    f"{found[:20]!r}...), so its bytes cannot be recovered; fuse specialists of one tokenizer"
                )


def _by_id(found: dict[int, bytes | None], rows: int | None) -> list[bytes | None]:
    highest = max((i for i, text in found.items() if text is not None), default=-1)
    if rows is not None and highest >= rows:
        raise ValueError(f"tokenizer: token {highest} has no row in a head of {rows} rows")
    text: list[bytes | None] = [None] * (1 + max(found, default=-1) if rows is None else rows)
    for i, spelt in found.items():
        if i < len(text):
            text[i] = spelt
    return text


def _characters(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Runs of whole characters (True) and of bytes that are none (False)."""
    while data:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            if error.start:
                yield data[: error.start], True
            yield data[error.start : error.end], False
            data = data[error.end :]
        else:
            yield data, True
            return
