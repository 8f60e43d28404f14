"""Messages to token ids: one prompt per specialist and turn, one response per turn shared by all of them.

Where the specialists' tokenizers differ (`tokenizer` is then a sequence of TokenTables, one per specialist, the
canonical one first), the labels are the canonical tokens of the answer, and each specialist reads its own tokens of the
same bytes: it takes part in predicting a label where one of its own tokens ends just before the label begins.

Prompts and responses are tokenised apart and joined as ids, so the ids of a response never depend on what stands
before it (Ding et al., ACL 2025, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ultrafuser.templates.render import Message, prefixes
from ultrafuser.tokens import TokenTable

NO_PLACE = -1  # in `Encoded.places`: none of the specialist's tokens ends before this label


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
    """One conversation as ids. Specialist j reads prompt_ids[j][0], response_ids[0], prompt_ids[j][1], ...

    Where tokenizers differ, `own[j]` takes the place of `response_ids`, which then holds the labels, and `places[j]`
    says for each label how many tokens of `own[j]` stand before it in its turn, or NO_PLACE.
    """

    prompt_ids: list[list[list[int]]]  # [specialist][turn] -> ids
    response_ids: list[list[int]]  # [turn] -> ids, the same for all specialists, each ending in eos
    own: list[list[list[int]]] | None = None  # [specialist][turn] -> ids of the answer, each ending in its own eos
    places: list[list[list[int]]] | None = None  # [specialist][turn] -> as many numbers as labels
    n_bytes: int = 0  # of all answers in UTF-8

    @property
    def n_response_tokens(self) -> int:
        """Tokens that the loss is taken on, the end-of-sequence tokens included."""
        return sum(map(len, self.response_ids))

    def sequence(self, specialist: int) -> list[int]:
        """All that one specialist reads, in order."""
        ids: list[int] = []
        responses = self.response_ids if self.own is None else self.own[specialist]
        for prompt, response in zip(self.prompt_ids[specialist], responses, strict=True):
            ids += prompt + response
        return ids

    def n_places(self, specialist: int) -> int:
        """Labels that the specialist takes part in predicting: all of them where tokenizers are the same."""
        if self.places is None:
            return self.n_response_tokens
        return sum(place != NO_PLACE for turn in self.places[specialist] for place in turn)

    @property
    def length(self) -> int:
        """Tokens of the longest specialist's sequence."""
        prompts = [sum(map(len, turns)) for turns in self.prompt_ids]
        if self.own is None:
            return max(prompts, default=0) + self.n_response_tokens
        return max(length + sum(map(len, turns)) for length, turns in zip(prompts, self.own, strict=True))


def encode_conversation(
    messages: Sequence[Message], templates: Sequence[str], tokenizer: Any, *, max_length: int | None = None
) -> Encoded:
    """Prompt ids per specialist and turn, and the shared response ids, of a conversation that ends in an answer.

    `templates` are Jinja sources, one per specialist; `tokenizer` is that of all, or their TokenTables. Raises TooLong
    when the longest specialist's sequence has more than `max_length` tokens (responses are never cut), ValueError for a
    conversation that does not end in an answer.
    """
    if not messages or messages[-1].get("role") != "assistant":
        raise ValueError("messages: the last message must be the assistant's; there is no answer to learn from")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    tables, n_bytes = _tables(tokenizer, templates), sum(len(_utf8(answer)) for answer in answers)
    if tables is None:
        texts = _prefix_texts(messages, templates, tokenizer)
        prompts, responses = _encode_prefixes(texts, tokenizer), encode_responses(answers, tokenizer)
        encoded = Encoded(prompts, responses, n_bytes=n_bytes)
    else:
        own = [encode_answers(answers, table) for table in tables]
        prompts = [_own_prompts(messages, template, table) for template, table in zip(templates, tables, strict=True)]
        places = [shared_places(own[0], tables[0], turns, table) for turns, table in zip(own, tables, strict=True)]
        encoded = Encoded(prompts, own[0], own, places, n_bytes)
    if max_length is not None and encoded.length > max_length:
        raise TooLong(encoded.length, max_length)
    return encoded


def encode_prompt(messages: Sequence[Message], templates: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Per specialist, the ids of the whole history up to the point where the next answer begins.

    `tokenizer` as in `encode_conversation`. Earlier answers are the response ids, end-of-sequence included: exactly the
    concatenation that training used. Raises ValueError when the last message is an answer.
    """
    if not messages or messages[-1].get("role") == "assistant":
        raise ValueError("messages: the last message is already an answer; end with a user message")
    history = [message["content"] for message in messages if message["role"] == "assistant"]
    tables = _tables(tokenizer, templates)
    if tables is None:
        prompt_ids = _encode_prefixes(_prefix_texts(messages, templates, tokenizer), tokenizer)
        responses = [encode_responses(history, tokenizer)] * len(prompt_ids)
    else:
        prompt_ids = [
            _own_prompts(messages, template, table) for template, table in zip(templates, tables, strict=True)
        ]
        responses = [encode_answers(history, table) for table in tables]
    return [
        [i for prompt, response in zip(turns, [*answers, []], strict=True) for i in prompt + response]
        for turns, answers in zip(prompt_ids, responses, strict=True)
    ]


def encode_answers(texts: Sequence[str], table: TokenTable) -> list[list[int]]:
    """Ids of answers in one of several tokenizers, byte for byte, each ending in its end-of-sequence token."""
    if table.end is None:
        raise ValueError("tokenizer: has no end-of-sequence token; set eos_token in its tokenizer_config.json")
    return [[*table.encode(_utf8(text)), table.end] for text in texts]


def shared_places(
    labels: Sequence[Sequence[int]], canonical: TokenTable, own: Sequence[Sequence[int]], table: TokenTable
) -> list[list[int]]:
    """Per turn and label, how many of a specialist's own tokens stand before it, NO_PLACE where none ends there.

    Byte offsets decide. The end-of-sequence token follows the last byte in every tokenizer, so it always has a place.
    """
    found = []
    for label_ids, own_ids in zip(labels, own, strict=True):
        place = {0: 0} | {end: count for count, end in enumerate(table.boundaries(own_ids[:-1]), start=1)}
        starts = [0, *canonical.boundaries(label_ids[:-1])]
        found.append([place.get(start, NO_PLACE) for start in starts])
    return found


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


def _utf8(text: str) -> bytes:
    """The bytes of a text, half of a surrogate pair included."""
    return text.encode("utf-8", "surrogatepass")


def _tables(tokenizer: Any, templates: Sequence[str]) -> Sequence[TokenTable] | None:
    """The tables where `tokenizer` is a sequence of them, None where it is one tokenizer for all."""
    if not isinstance(tokenizer, Sequence):
        return None
    if len(tokenizer) != len(templates):
        raise ValueError(f"tokenizer: {len(tokenizer)} tables for {len(templates)} templates; give one per specialist")
    return tokenizer


def _own_prompts(messages: Sequence[Message], template: str, table: TokenTable) -> list[list[int]]:
    """One specialist's prompt ids per turn, in its own tokenizer."""
    texts = _prefix_texts(messages, [template], table.tokenizer)
    return _encode_prefixes(texts, table.tokenizer)[0]


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
