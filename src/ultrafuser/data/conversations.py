"""One conversation in the common form, and the table of record formats that can be turned into it.

It knows neither files nor tokens; `sources.py` reads files and adds the file and line to what goes wrong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FORMATS", "Conversation", "Message", "conversation_from_record"]

Message = dict[str, str]
Record = Mapping[str, Any]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True)
class Conversation:
    """One conversation: an optional system message, then user and assistant in turns, ending in an answer."""

    id: str
    category: str
    messages: list[Message]
    family: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def n_answers(self) -> int:
        """Number of assistant messages; each one is trained on."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def texts(self) -> list[str]:
        """The content of every message, for overlap checks."""
        return [message["content"] for message in self.messages]


def _string(value: Any, field_name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        kinds = sorted({str(part.get("type", "text")) for part in value} - {"text"})
        if kinds:
            raise ValueError(f"{field_name}: content of type {', '.join(kinds)}; only text can be trained on")
        return "".join(_string(part.get("text"), f"{field_name}.text") for part in value)
    raise ValueError(f"{field_name}: {value!r:.80} is a {type(value).__name__}; write text")


def _messages(value: Any, field_name: str, role_key: str, content_key: str) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ValueError(f"{field_name}: must be a list of messages with {role_key!r} and {content_key!r}")
    found = []
    for index, item in enumerate(value):
        where = f"{field_name}[{index}]"
        for key in (role_key, content_key):
            if key not in item:
                raise ValueError(f"{where}: no field {key!r}; found {_names(item)}")
        role = _ROLES.get(str(item[role_key]).lower())
        if role is None:
            raise ValueError(f"{where}.{role_key}: {item[role_key]!r} is not one of system, user, assistant")
        found.append({"role": role, "content": _string(item[content_key], f"{where}.{content_key}")})
    return found


def _from_messages(record: Record) -> list[Message]:
    return _messages(record["messages"], "messages", "role", "content")


def _from_sharegpt(record: Record) -> list[Message]:
    turns = record["conversations"]
    first = turns[0] if isinstance(turns, list) and turns else {}
    plain = isinstance(first, Mapping) and "role" in first
    return _messages(turns, "conversations", *(("role", "content") if plain else ("from", "value")))


def _from_turns(record: Record) -> list[Message]:
    turns = record["data"]
    if not isinstance(turns, list):
        raise ValueError("data: must be a list of texts, user and assistant in turns")
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": _string(turn, f"data[{i}]")} for i, turn in enumerate(turns)]


def _from_prompt(record: Record) -> list[Message]:
    prompt, key = record["prompt"], _first(record, "completion", "response", "output", "answer")
    answer = record[key]
    head = (
        _messages(prompt, "prompt", "role", "content")
        if isinstance(prompt, list)
        else [{"role": "user", "content": _string(prompt, "prompt")}]
    )
    tail = (
        _messages(answer, key, "role", "content")
        if isinstance(answer, list)
        else [{"role": "assistant", "content": _string(answer, key)}]
    )
    return head + tail


def _pair(prompt_key: str, *answer_keys: str, context: tuple[str, ...] = ()) -> Callable[[Record], list[Message]]:
    def read(record: Record) -> list[Message]:
        answer_key = _first(record, *answer_keys)
        prompt = _string(record[prompt_key], prompt_key)
        for key in context:
            if given := _string(record.get(key) or "", key).strip():
                prompt = f"{prompt}\n\n{given}"
        answer = {"role": "assistant", "content": _string(record[answer_key], answer_key)}
        return [{"role": "user", "content": prompt}, answer]

    return read


def _first(record: Record, *keys: str) -> str:
    return next(key for key in keys if key in record)


# name -> (what must be there, with alternatives; reader). The first row that fits reads the record.
FORMATS: dict[str, tuple[tuple[tuple[str, ...], ...], Callable[[Record], list[Message]]]] = {
    "messages": ((("messages",),), _from_messages),
    "conversations (ShareGPT)": ((("conversations",),), _from_sharegpt),
    "instruction": (
        (("instruction",), ("output", "response", "completion", "answer")),
        _pair("instruction", "output", "response", "completion", "answer", context=("input", "context")),
    ),
    "prompt": ((("prompt",), ("completion", "response", "output", "answer")), _from_prompt),
    "question": (
        (("question",), ("solution", "answer", "response", "output")),
        _pair("question", "solution", "answer", "response", "output"),
    ),
    "problem": ((("problem",), ("solution", "answer")), _pair("problem", "solution", "answer")),
    "query": ((("query",), ("response", "answer")), _pair("query", "response", "answer")),
    "data (UltraChat)": ((("data",),), _from_turns),
}


def conversation_from_record(record: Any, category: str, fallback_id: str) -> Conversation:
    """The conversation a record of any known format holds.

    A user message after the last answer is left out: nothing in it is trained on. Raises ValueError naming the field,
    without the file.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"a record must be an object with named fields, not a {type(record).__name__}")
    for needs, read in FORMATS.values():
        if all(any(key in record for key in alternatives) for alternatives in needs):
            messages = read(record)
            break
    else:
        raise ValueError(f"unknown format: the record has the fields {_names(record)}; known are {_known_formats()}")
    system = record.get("system") or record.get("system_prompt")
    if isinstance(system, str) and system.strip() and messages and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    messages = _checked(messages)
    identity = next((record[key] for key in ("id", "task_id") if record.get(key) is not None), fallback_id)
    family = record.get("family")
    meta = record["meta"] if isinstance(record.get("meta"), Mapping) else {}
    return Conversation(str(identity), category, messages, None if family is None else str(family), dict(meta))


def _checked(messages: list[Message]) -> list[Message]:
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None:
        raise ValueError("no assistant answer to learn from; add one or remove the record")
    messages = messages[: last + 1]
    for index, message in enumerate(messages):
        role, before = message["role"], messages[index - 1]["role"] if index else None
        if role == "assistant" and not message["content"].strip():
            raise ValueError(f"the assistant answer (message {index}) is empty; write one or remove the record")
        if role == "system" and index:
            raise ValueError(f"message {index} has the role system; only the first message may")
        if role == "assistant" and before in (None, "system"):
            raise ValueError(f"message {index} is an assistant answer with no user message before it")
        if role == before:
            raise ValueError(f"messages {index - 1} and {index} both have the role {role}; join them into one")
    return messages


def _names(record: Record) -> str:
    return ", ".join(map(str, record)) or "none"


def _known_formats() -> str:
    return "; ".join(" + ".join("|".join(keys) for keys in needs) for needs, _ in FORMATS.values())
