"""Reading lists out of replies: JSON where it is JSON, and what models write in place of it where it is not.

In this order: a JSON list or an object that holds one, anywhere in the text, also fenced; JSON cut off midway, up to
its last whole item; one JSON value a line; a numbered or bulleted list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["one_text", "read_objects", "read_texts"]

_MARKER = re.compile(r"^\s*(?:[-*•+]|\(?\d{1,3}[.):]|#{1,4}\s*\d{1,3}[.):]?)\s+")
_LABEL = re.compile(
    r"^(?:\*\*)?(?:request|instruction|question|task|problem|topic|prompt|item)\s*\d*\s*:(?:\*\*)?\s*", re.I
)
_THINKING = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>", re.S)
_TEXT_KEYS = ("text", "name", "topic", "request", "instruction", "question", "task", "problem", "prompt", "title")


def read_texts(reply: str) -> list[str]:
    """The texts of a reply that was to be a list of strings, in order; empty where none can be made out."""
    reply = _THINKING.sub("", reply)
    values = _json_items(reply)
    texts = [text for value in values if (text := _text(value))] if values else []
    return _distinct(texts or _listed(reply))


def read_objects(reply: str, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """The objects of a reply that have all of `fields` as texts; other fields are left out."""
    reply = _THINKING.sub("", reply)
    found = []
    for value in _json_items(reply) or _blocks(reply, fields):
        if not isinstance(value, Mapping):
            continue
        folded = {str(key).strip().lower().replace(" ", "_").replace("-", "_"): one for key, one in value.items()}
        texts = {name: _text(folded.get(name)) for name in fields}
        if all(texts.values()):
            found.append(texts)
    return found


def one_text(reply: str) -> str:
    """A reply that was to be one text: without thinking, without quotation marks or a fence around the whole."""
    text = _THINKING.sub("", reply).strip()
    fence = re.fullmatch(r"```(?:text|markdown|md)?\s*\n(.*?)\n?```", text, flags=re.S)
    if fence and "```" not in fence[1]:
        text = fence[1].strip()
    if len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("'", "'")} and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return _LABEL.sub("", text)


def _json_items(reply: str) -> list[Any]:
    """Items of the first list in the text that is JSON; of one that is cut off, those that are whole."""
    decoder = json.JSONDecoder(strict=False)
    loose: list[Any] = []
    at = 0
    while (start := _next(reply, at)) >= 0:
        try:
            value, end = decoder.raw_decode(reply, start)
        except json.JSONDecodeError:
            if reply[start] == "[" and not loose and (whole := _whole_items(decoder, reply, start + 1)):
                return whole
            at = start + 1
            continue
        items = _items(value)
        if items is not None:
            return items
        loose.append(value)
        at = end
    return loose


def _next(text: str, at: int) -> int:
    places = [place for mark in "[{" if (place := text.find(mark, at)) >= 0]
    return min(places, default=-1)


def _items(value: Any) -> list[Any] | None:
    """The list that a JSON value is or holds."""
    if isinstance(value, list):
        return value
    lists = [one for one in value.values() if isinstance(one, list)] if isinstance(value, dict) else []
    return lists[0] if len(lists) == 1 else None


def _whole_items(decoder: json.JSONDecoder, text: str, at: int) -> list[Any]:
    found: list[Any] = []
    while True:
        at = re.compile(r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return found
        found.append(value)


def _text(value: Any) -> str:
    """A text, or the text that an object is likely to mean."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Mapping):
        strings = {str(key).lower(): one for key, one in value.items() if isinstance(one, str) and one.strip()}
        named = next((strings[key] for key in _TEXT_KEYS if key in strings), None)
        if named is not None:
            return named.strip()
        return next(iter(strings.values())).strip() if len(strings) == 1 else ""
    return ""


def _listed(reply: str) -> list[str]:
    """Items of a numbered or bulleted list; indented lines and fenced code under an item belong to it."""
    items: list[list[str]] = []
    fenced = False
    for line in reply.splitlines():
        if not fenced and _MARKER.match(line) and not line.startswith(("    ", "\t")):
            items.append([_MARKER.sub("", line, count=1)])
        elif items and (fenced or line.startswith((" ", "\t", "```"))):
            items[-1].append(line)
        fenced ^= line.lstrip().startswith("```")
    texts = ("\n".join(item).strip() for item in items)
    return [_LABEL.sub("", text.strip().strip("*").strip().strip('"').rstrip(",").strip('"')) for text in texts if text]


def _blocks(reply: str, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Objects written as lines `Name: ...`; each begins with the first field."""
    found: list[dict[str, str]] = []
    for line in reply.splitlines():
        plain = _MARKER.sub("", line).replace("**", "").strip()
        key, colon, value = plain.partition(":")
        name = key.strip().strip('"').lower().replace(" ", "_").replace("-", "_")
        if not colon or name not in fields:
            continue
        if name == fields[0]:
            found.append({})
        if found:
            found[-1][name] = value.strip().strip('",')
    return found


def _distinct(texts: Iterable[str]) -> list[str]:
    found: dict[str, str] = {}
    for text in texts:
        if text:
            found.setdefault(text.casefold(), text)
    return list(found.values())
