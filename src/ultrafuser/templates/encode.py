"""Messages to token ids: one prompt per specialist and turn, one response per turn shared by all of them.

Prompts and responses are tokenised apart and joined as ids, so the ids of a response never depend on what stands
before it (Ding et al., ACL 2025, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ultrafuser.templates.render import Message, prefixes


class TooLong(ValueError):  # noqa: N818 - the name that callers read
    """A conversation that does not fit `max_length`; `length` is the longest specialist's sequence in tokens."""

    def __init__(self, length: int, max_length: int) -> None:
        super().__init__(
            f"max_length: the conversation takes {length} tokens and max_length is {max_length}; raise max_length, "
            "shorten the conversation, or let the recipe drop it (on_too_long: drop)"
        )
        self.length = length
        self.max_length = max_length


@dataclass(frozen=True)
class Encoded:
    """One conversation as ids. Specialist j reads prompt_ids[j][0], response_ids[0], prompt_ids[j][1], ..."""

    prompt_ids: list[list[list[int]]]  # [specialist][turn] -> ids
    response_ids: list[list[int]]  # [turn] -> ids, the same for all specialists, each ending in eos

    @property
    def n_response_tokens(self) -> int:
        """Tokens that the loss is taken on, the end-of-sequence tokens included."""
        return sum(map(len, self.response_ids))

    def sequence(self, specialist: int) -> list[int]:
        """All that one specialist reads, in order."""
        ids: list[int] = []
        for prompt, response in zip(self.prompt_ids[specialist], self.response_ids, strict=True):
            ids += prompt + response
        return ids

    @property
    def length(self) -> int:
        """Tokens of the longest specialist's sequence."""
        prompts = [sum(map(len, turns)) for turns in self.prompt_ids]
        return max(prompts, default=0) + self.n_response_tokens


def encode_conversation(
    messages: Sequence[Message], templates: Sequence[str], tokenizer: Any, *, max_length: int | None = None
) -> Encoded:
    """Prompt ids per specialist and turn, and the shared response ids, of a conversation that ends in an answer.

    `templates` are Jinja sources, one per specialist. Raises TooLong when the longest specialist's sequence has more
    than `max_length` tokens (responses are never cut), ValueError for a conversation that does not end in an answer.
    """
    if not messages or messages[-1].get("role") != "assistant":
        raise ValueError("messages: the last message must be the assistant's; there is no answer to learn from")
    texts = _prefix_texts(messages, templates, tokenizer)
    responses = [message["content"] for message in messages if message["role"] == "assistant"]
    encoded = Encoded(
        prompt_ids=_encode_prefixes(texts, tokenizer), response_ids=encode_responses(responses, tokenizer)
    )
    if max_length is not None and encoded.length > max_length:
        raise TooLong(encoded.length, max_length)
    return encoded


def encode_prompt(messages: Sequence[Message], templates: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Per specialist, the ids of the whole history up to the point where the next answer begins.

    Earlier answers are the shared response ids, end-of-sequence included: exactly the concatenation that training
    used. Raises ValueError when the last message is an answer.
    """
    if not messages or messages[-1].get("role") == "assistant":
        raise ValueError("messages: the last message is already an answer; end with a user message")
    texts = _prefix_texts(messages, templates, tokenizer)
    prompt_ids = _encode_prefixes(texts, tokenizer)
    history = [message["content"] for message in messages if message["role"] == "assistant"]
    responses = [*encode_responses(history, tokenizer), []]
    return [
        [i for prompt, response in zip(turns, responses, strict=True) for i in prompt + response]
        for turns in prompt_ids
    ]


def encode_responses(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of answers, each ending in the tokenizer's end-of-sequence token and holding no other.

    An answer that writes the token out (a text about tokenizers, say) gets it spelt in ordinary tokens.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: has no end-of-sequence token; set eos_token in its tokenizer_config.json")
    eos = tokenizer.eos_token_id
    found = _ids(texts, tokenizer)
    for i, ids in enumerate(found):
        if eos in ids:
            found[i] = _ids([texts[i]], tokenizer, split_special_tokens=True)[0]
    return [[*ids, eos] for ids in found]


def special_token_texts(tokenizer: Any) -> dict[str, str]:
    """The tokenizer's special tokens by name, as templates want them."""
    return {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}


def _prefix_texts(messages: Sequence[Message], templates: Sequence[str], tokenizer: Any) -> list[list[str]]:
    if not templates:
        raise ValueError("templates: none given; one per specialist is needed")
    special_tokens = special_token_texts(tokenizer)
    by_source = {
        source: prefixes(source, messages, special_tokens=special_tokens) for source in dict.fromkeys(templates)
    }
    return [by_source[source] for source in templates]


def _encode_prefixes(texts: list[list[str]], tokenizer: Any) -> list[list[list[int]]]:
    flat = list(dict.fromkeys(text for turns in texts for text in turns))
    ids = dict(zip(flat, _ids(flat, tokenizer), strict=True))
    if any(not ids[turns[0]] for turns in texts):
        raise ValueError(
            "template: renders an empty prompt, so that nothing could predict the first token of the answer"
        )
    return [[list(ids[text]) for text in turns] for turns in texts]


def _ids(texts: Sequence[str], tokenizer: Any, **options: Any) -> list[list[int]]:
    """Ids without added special tokens; one call for all texts."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, **options)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
