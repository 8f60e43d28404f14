"""Telling texts that break off: an open code fence, an open formula, a sentence without its end."""

from __future__ import annotations

import re

__all__ = ["cut_off"]

_FENCE = re.compile(r"^\s{0,12}(?:[-*>]\s+)?(`{3,}|~{3,})[ \t]*([^\n`]*)$")
_LIST_MARK = re.compile(r"^\s*(?:\(?\d{1,3}[.)]|[-*•+]|#{1,6})\s*$")
_LISTED = re.compile(r"^\s*(?:\(?(?:\d{1,3}|[a-zA-Z])[.)]|[-*•+–]|#{1,6}|\||>)\s*\S")
_DANGLING = re.compile(
    r"(?i)\b(?:the|a|an|of|and|or|but|because|which|your|their|its|my|our|than|whereas|although|such"
    r"|is|are|was|were)$"
)
_ENDED = re.compile(r"""[.!?…。！？؟।:;)\]}>"'”’»*_`|~\\$%°]$|[^\w\s]$""")
_LOOSE = re.compile(r"\s#\w|\|.*\||(?:,.*){4}")  # tags, cells of a table, an enumeration
_SENTENCE = re.compile(r"[.!?]['\")\]]?\s+(?=[A-Z\"'(])")
_BEGIN, _END = re.compile(r"\\begin\{(\w+\*?)\}"), re.compile(r"\\end\{(\w+\*?)\}")
WORDS = 8  # of a last line that counts as a sentence
ITEMS, SHARE = 2, 0.9  # of a list: where at least so many of at least so many end like sentences, all must
CLOSING = 3  # words of a line that ends a letter


def cut_off(text: str, *, sentences: bool = False) -> str | None:
    """Why a text seems to break off, or None. `sentences`: the last one, of a list too, must have its end."""
    body = text.strip()
    prose, open_fence = _without_code(body)
    if open_fence:
        return "code fence is not closed"
    if prose.count("$$") % 2 or prose.count("\\[") > prose.count("\\]") or _environments(prose):
        return "formula is not closed"
    lines = body.splitlines()
    if not lines or _FENCE.match(lines[-1]):
        return None
    last = lines[-1].strip()
    if _LIST_MARK.match(last) and len(lines) > 1:
        return f"list item without text: {last[-60:]}"
    bare = last.rstrip("*_ ")
    closing = len(lines) > 1 and len(bare.split()) <= CLOSING  # of a letter: "Yours,"
    if (bare.endswith((",", "(", "[", "{")) and not closing) or (
        _DANGLING.search(bare) and len(bare.split()) > 3 and " " in bare
    ):
        return f"last sentence breaks off: {last[-60:]}"
    if sentences and bare.endswith(":"):
        return f"announces what does not come: {last[-60:]}"
    if last.count("(") > last.count(")") and not _ENDED.search(last):
        return f"bracket is not closed: {last[-60:]}"
    if sentences and _unended(prose, last):
        return f"last sentence has no end: {last[-60:]}"
    return None


def _unended(prose: str, last: str) -> bool:
    """Whether the last line is a sentence without an end, in a text whose other sentences have theirs."""
    if _ENDED.search(last) or _LOOSE.search(last):
        return False
    if _LISTED.match(last):
        items = [line.rstrip() for line in prose.splitlines() if _LISTED.match(line)][:-1]
        return len(items) >= ITEMS and sum(bool(_ENDED.search(item)) for item in items) >= SHARE * len(items)
    return len(last.split()) >= WORDS and len(_SENTENCE.findall(prose)) >= 1


def _without_code(text: str) -> tuple[str, bool]:
    """The text without fenced code, and whether a fence is left open."""
    kept: list[str] = []
    fence = ""
    for line in text.splitlines():
        found = _FENCE.match(line)
        if not fence and found:
            fence = found[1]
        elif fence and found and found[1].startswith(fence) and not found[2].strip():
            fence = ""
        elif not fence:
            kept.append(line)
    return "\n".join(kept), bool(fence)


def _environments(text: str) -> bool:
    return len(_BEGIN.findall(text)) > len(_END.findall(text))
