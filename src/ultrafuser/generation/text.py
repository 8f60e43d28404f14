"""Text pieces from a growing list of token ids: a character is given out only when all its bytes are there."""

from __future__ import annotations

import codecs
from typing import Any

__all__ = ["IncrementalBytes", "IncrementalText"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LONGEST_UNFINISHED = 3  # bytes, so tokens: a UTF-8 character has at most four
KEEP, WINDOW = 8, 32


class IncrementalText:
    """Decodes ids one by one; the pieces joined are what decoding all ids at once gives.

    The token that completes a character gets it; tokens before it in the same character get "". Special tokens are
    shown as nothing. Bytes that can never become a character come out as replacement marks, at most three tokens
    late. Only the last `WINDOW` tokens are decoded again at each step, so long answers stay cheap.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.window: list[int] = []
        self.shown = 0  # characters of the decoded window that were given out
        self.waiting = 0  # tokens since the last one that ended in a whole character
        self.ends: list[int] = [0]  # places in the window where a whole character ended: it may be cut there

    def push(self, token_id: int, *, last: bool = False) -> str:
        """The text that `token_id` adds; `last` gives out what is held back, unfinished or not."""
        self.window.append(token_id)
        text = self._decode(self.window)
        unfinished = text.endswith(REPLACEMENT) and not last
        self.waiting = self.waiting + 1 if unfinished else 0
        if not unfinished:
            end = len(text)
        elif self.waiting <= LONGEST_UNFINISHED:
            end = self.shown
        else:
            marks = len(text) - len(text.rstrip(REPLACEMENT))
            end = len(text) - min(LONGEST_UNFINISHED, marks)
        piece = text[self.shown : end]
        self.shown += len(piece)
        if not unfinished:
            self.ends.append(len(self.window))
            if len(self.window) >= WINDOW:
                self._cut()
        return piece

    def _cut(self) -> None:
        """Forget all but the last tokens; they stay because a word's space may hang on the word before it."""
        cut = max(end for end in self.ends if end <= len(self.window) - KEEP)
        self.window = self.window[cut:]
        self.ends = [end - cut for end in self.ends if end >= cut]
        self.shown = len(self._decode(self.window))

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class IncrementalBytes:
    """`IncrementalText` by the tokens' bytes, for answers whose tokens no tokenizer would cut so.

    `table` is a `TokenTable`; the pieces joined are the joined bytes as UTF-8, with replacement marks for what is none.
    """

    def __init__(self, table: Any) -> None:
        self.table = table
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int, *, last: bool = False) -> str:
        """The text that `token_id` adds; `last` gives out what is held back, unfinished or not."""
        return self.decoder.decode(self.table.text[token_id] or b"", final=last)
