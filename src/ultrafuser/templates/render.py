"""Chat templates in the Hugging Face dialect, rendered in a sandbox and cut at the assistant's answers.

An answer itself never passes through a template: a placeholder stands in its place, so that no template can strip,
rewrite or re-tokenise it. That is what makes the response tokens of all specialists line up (Ding et al., ACL 2025,
section 3: every specialist reads its own template, the loss is taken on the shared response).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")

# Templates that print the current date would make two runs of one recipe differ; they all get this one, which is
# also what the Llama 3 templates print when no clock is at hand.
FIXED_DATE = {"%d": "26", "%b": "Jul", "%B": "July", "%Y": "2024", "%m": "07", "%y": "24", "%H": "00", "%M": "00"}


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks trainable text in the Hugging Face dialect; transparent here."""

    tags = {"generation"}  # noqa: RUF012 - the attribute's form is jinja's

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    for code, text in FIXED_DATE.items():
        pattern = pattern.replace(code, text)
    return pattern


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=256)
def compile_template(source: str) -> jinja2.Template:
    """A compiled template; ValueError with the line for a syntax error."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise ValueError(f"template: line {error.lineno} is not valid Jinja: {error.message}") from None


def render(
    source: str, messages: Sequence[Message], *, special_tokens: Mapping[str, str], add_generation_prompt: bool = False
) -> str:
    """The text of a conversation as the template writes it; equals `tokenizer.apply_chat_template(tokenize=False)`.

    Raises ValueError with the template's own words when it refuses the conversation.
    """
    names = {"bos_token": "", "eos_token": "", **special_tokens}
    try:
        return compile_template(source).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **names,
        )
    except jinja2.exceptions.TemplateError as error:
        raise ValueError(f"template: refuses the conversation: {error.message or error}") from None
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"template: fails on the conversation: {error}") from None


@dataclass(frozen=True)
class TemplateTraits:
    """What one small trial conversation tells about a template."""

    system: str  # "own": it has a place for a system message; "merged": we put the text before the first user turn
    header: str  # "prompt": the generation prompt opens an answer; "answer": only the answer's own rendering does


@lru_cache(maxsize=256)
def _traits(source: str, special_tokens: tuple[tuple[str, str], ...]) -> TemplateTraits:
    tokens = dict(special_tokens)
    system, user, answer = ({"role": role, "content": f"Probe{role}"} for role in ("system", "user", "assistant"))
    try:
        keeps_system = "Probesystem" in render(
            source, [system, user], special_tokens=tokens, add_generation_prompt=True
        )
    except ValueError:
        keeps_system = False
    header = "prompt"
    try:
        with_prompt = render(source, [user], special_tokens=tokens, add_generation_prompt=True)
        without = render(source, [user], special_tokens=tokens)
        before_answer = render(source, [user, answer], special_tokens=tokens).partition("Probeassistant")[0]
    except ValueError:
        pass  # the real conversation will show the error, with its own words
    else:
        missing = before_answer.removeprefix(with_prompt)
        if with_prompt == without and len(missing) < len(before_answer) and missing.strip():
            header = "answer"
    return TemplateTraits(system="own" if keeps_system else "merged", header=header)


def template_traits(source: str, special_tokens: Mapping[str, str]) -> TemplateTraits:
    """How the template treats system messages and the opening of an answer."""
    return _traits(source, tuple(sorted(special_tokens.items())))


def prefixes(source: str, messages: Sequence[Message], *, special_tokens: Mapping[str, str]) -> list[str]:
    """The text before each assistant answer and, when the last message is not an answer, before the one to come.

    Element k reaches from the end of answer k-1 (its end-of-sequence text not included: the shared response ends in
    it) to the first character of answer k. It is a function of the messages before answer k only, so training on a
    whole conversation and generating its turns one by one see the same text. A template without a place for system
    messages gets their text before the first user turn. Raises ValueError for unknown roles, contents that are not
    text, an answer that nothing comes before, and a template that drops or repeats earlier answers.
    """
    turns = _checked(messages)
    traits = template_traits(source, special_tokens)
    if traits.system == "merged":
        turns = _merge_system(turns)
    placeholder = _placeholder(turns)
    ends = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not turns or turns[-1]["role"] != "assistant":
        ends.append(len(turns))
    marked: list[dict[str, Any]] = []
    result = []
    for k, end in enumerate(ends):
        marked += turns[len(marked) : end]
        if k and marked[ends[k - 1]]["role"] == "assistant":
            marked[ends[k - 1]] = {**marked[ends[k - 1]], "content": placeholder.format(k - 1)}
        result.append(_last_piece(source, marked, k, placeholder, special_tokens, traits))
    return result


def _last_piece(
    source: str,
    marked: list[dict[str, Any]],
    k: int,
    placeholder: str,
    special_tokens: Mapping[str, str],
    traits: TemplateTraits,
) -> str:
    """What the template writes after answer k-1 and before answer k."""
    if traits.header == "answer":
        probe = {"role": "assistant", "content": placeholder.format(k)}
        rendered = render(source, [*marked, probe], special_tokens=special_tokens)
        rendered, found, _ = rendered.partition(probe["content"])
        if not found:
            raise ValueError("template: drops the assistant's answer; write it with {{ message['content'] }}")
    else:
        rendered = render(source, marked, special_tokens=special_tokens, add_generation_prompt=True)
    for earlier in range(k):
        count = rendered.count(placeholder.format(earlier))
        if count != 1:
            what = "drops" if count == 0 else "repeats"
            raise ValueError(
                f"template: {what} the assistant's earlier answer {earlier + 1}; every answer must be written exactly "
                "once, with {{ message['content'] }}"
            )
    piece = rendered.rpartition(placeholder.format(k - 1))[2] if k else rendered
    eos = special_tokens.get("eos_token") or ""
    if k and eos and piece.lstrip().startswith(eos):
        piece = piece.lstrip().removeprefix(eos)
    return piece


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    turns = [dict(message) for message in messages]
    for i, turn in enumerate(turns):
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise ValueError(f"messages[{i}].role: {role!r} is not one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"messages[{i}].content: {type(content).__name__} given, text needed")
    roles = [turn["role"] for turn in turns]
    if "user" not in roles:
        raise ValueError("messages: no user message; a conversation needs at least one")
    if "assistant" in roles and roles.index("assistant") < roles.index("user"):
        raise ValueError(f"messages[{roles.index('assistant')}]: an answer stands before the first user message")
    return turns


def _merge_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System texts moved to the front of the user turn that follows them (the last user turn when none follows)."""
    merged: list[dict[str, Any]] = []
    waiting: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            waiting += [turn["content"]] if turn["content"] else []
        elif turn["role"] == "user" and waiting:
            merged.append({**turn, "content": "\n\n".join([*waiting, turn["content"]])})
            waiting = []
        else:
            merged.append(turn)
    return merged


def _placeholder(turns: list[dict[str, Any]]) -> str:
    """A format string whose fillings occur in no message and do not contain each other."""
    mark = "AnswerPlace"
    while any(mark in turn["content"] for turn in turns):
        mark += "X"
    return mark + "N{}End"
