"""A conversation inside the one string that lm-eval passes for a context. Knows nothing of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Chat", "pack", "unpack"]

Message = dict[str, str]
MARK = "\x02ultrafuser chat\x03"  # control characters, so that no text of a task begins like this


@dataclass(frozen=True)
class Chat:
    """Messages that end before an answer, and the beginning of that answer where the task gives one."""

    messages: tuple[Message, ...]
    beginning: str = ""


def pack(messages: Sequence[Message]) -> str:
    """The conversation as a string, still legible in lm-eval's log of samples; `unpack` reads it."""
    return MARK + json.dumps(list(messages), ensure_ascii=False)


def unpack(context: str) -> Chat | None:
    """The conversation in a context; None for any other text.

    A last message of the assistant's is the beginning of the answer (lm-eval's `gen_prefix`), and so is text that a
    task put behind the conversation.
    """
    if not context.startswith(MARK):
        return None
    messages, end = json.JSONDecoder().raw_decode(context, len(MARK))
    beginning = context[end:]
    if messages and messages[-1]["role"] == "assistant":
        beginning = messages.pop()["content"] + beginning
    return Chat(tuple(messages), beginning)
