"""Template sanity: does a template carry both sides of a conversation, tell them apart, and end an answer as the
tokenizer does? Judged by rendering a trial conversation of two turns, with and without a system message.
"""

import re
from typing import Any

from ultrafuser.preflight.facts import Facts
from ultrafuser.preflight.findings import Report
from ultrafuser.recipe import SpecialistSource
from ultrafuser.templates import load_template, prefixes, render, special_token_texts, template_traits

SYSTEM = {"role": "system", "content": "Systemtrial"}
TURNS = [
    {"role": "user", "content": "Asktrialone"},
    {"role": "assistant", "content": "Saytrialone"},
    {"role": "user", "content": "Asktrialtwo"},
    {"role": "assistant", "content": "Saytrialtwo"},
]
MARKER = re.compile(r"<\|[A-Za-z0-9_]+\|>|<(?:start|end)_of_turn>|</?s>")


def check_template(
    name: str, spec: SpecialistSource, facts: Facts, tokenizer: Any, report: Report, *, path: str = ""
) -> str | None:
    """The source of a specialist's template, or None when it cannot be used; notes what is wrong with it.

    `tokenizer` is the fused model's; a template of the specialist's own comes with `facts.tokenizer`.
    """
    field = f"specialists.{name}.template"
    try:
        source = load_template(path or spec.template, facts.tokenizer, field=field)
    except ValueError as error:
        report.add("error", field, str(error).removeprefix(f"{field}: "))
        return None
    special = special_token_texts(tokenizer)
    before = len(report.errors)
    try:
        pieces = prefixes(source, [SYSTEM, *TURNS], special_tokens=special)
        bare = prefixes(source, TURNS, special_tokens=special)
        whole = render(source, TURNS, special_tokens=special)
    except ValueError as error:
        report.add(
            "error", field, f"{_shown(spec)}: {str(error).removeprefix('template: ')}", "mend it or name another"
        )
        return None
    _contents(field, spec, pieces, bare, whole, report)
    if len(report.errors) > before:
        return None
    _roles(field, bare, report)
    _thought(field, bare[0], report)
    _history(field, bare, whole, special.get("eos_token", ""), report)
    _end_of_answer(field, whole, special.get("eos_token", ""), report)
    _markers(field, source, pieces, tokenizer, report)
    _against_own(field, spec, source, facts, special, report)
    if not any(finding.field == field and finding.level == "warning" for finding in report.findings):
        place = "in its own place" if template_traits(source, special).system == "own" else "before the first user turn"
        report.add("ok", field, f"{_shown(spec)}: carries both sides of a conversation; a system prompt goes {place}")
    return source


def _shown(spec: SpecialistSource) -> str:
    text = spec.template or "the tokenizer's own template"
    return text if len(text) <= 60 and "\n" not in text else "the template written out in the recipe"


def _contents(
    field: str, spec: SpecialistSource, pieces: list[str], bare: list[str], whole: str, report: Report
) -> None:
    """Everything that is said has to arrive: both questions, both answers, the system text."""
    lost = [k + 1 for k, question in enumerate(("Asktrialone", "Asktrialtwo")) if question not in bare[k]]
    if lost:
        what = f"{_shown(spec)}: drops the user's message {' and '.join(map(str, lost))}"
        report.add("error", field, what, "write it with {{ message['content'] }}")
    for answer in ("Saytrialone", "Saytrialtwo"):
        if whole.count(answer) != 1:
            what = "drops" if answer not in whole else "repeats"
            report.add(
                "error",
                field,
                f"{_shown(spec)}: {what} the assistant's answer",
                "write it once, with {{ message['content'] }}",
            )
            return
    if "Systemtrial" not in pieces[0]:
        report.add("warning", field, f"{_shown(spec)}: drops the system message", "expect system prompts to do nothing")


def _roles(field: str, bare: list[str], report: Report) -> None:
    """The text before an answer has to say that an answer begins, and differ from the text before a question."""
    opening = bare[0].rpartition("Asktrialone")[2]
    if not opening.strip() and not opening:
        report.add(
            "warning",
            field,
            "nothing stands between a question and its answer: no generation prompt",
            "end the prompt with the assistant's mark when add_generation_prompt is set",
        )
        return
    before_question = bare[1].partition("Asktrialtwo")[0]
    if before_question.strip() == opening.strip() and before_question == opening:
        report.add(
            "warning",
            field,
            "questions and answers are marked alike, so that the model cannot tell who speaks",
            "mark the roles in the template",
        )


def _thought(field: str, prompt: str, report: Report) -> None:
    """Reasoning models open a thought in the generation prompt; an answer without one would stand inside it."""
    opened = prompt.rpartition("<think>")[2]
    if "<think>" in prompt and "</think>" not in opened:
        report.add(
            "warning",
            field,
            "the generation prompt opens a thought (<think>), so that a plain answer would count as thinking",
            "write a template without it, unless the answers in your data begin with the thought",
        )


def _history(field: str, bare: list[str], whole: str, eos: str, report: Report) -> None:
    """Templates that write earlier turns differently once more follow; here every turn stays as first written."""
    joined = "".join(piece + answer + eos for piece, answer in zip(bare, ("Saytrialone", "Saytrialtwo"), strict=True))
    if _words(joined, eos) != _words(whole, eos)[: len(_words(joined, eos))]:
        report.add("ok", field, "writes earlier turns differently once more follow; here they stay as first written")


def _words(text: str, eos: str) -> str:
    """The text without white space and end-of-sequence marks, whose places differ between templates."""
    return "".join((text.replace(eos, "") if eos else text).split())


def _end_of_answer(field: str, whole: str, eos: str, report: Report) -> None:
    """The template's own end of an answer against the tokenizer's: the wrong one makes generation run on for ever."""
    after = whole.partition("Saytrialone")[2].partition("Asktrialtwo")[0].lstrip()
    if not eos or after.startswith(eos):
        return
    mark = MARKER.match(after)
    if mark is not None and mark[0] != eos:
        report.add(
            "warning",
            field,
            f"ends an answer with {mark[0]!r}, but the tokenizer's end of sequence is {eos!r}: this specialist never "
            "learned to stop there",
            f"set eos_token to {mark[0]!r} in tokenizer_config.json, if that is what it was trained with",
        )


def _markers(field: str, source: str, pieces: list[str], tokenizer: Any, report: Report) -> None:
    """Marks such as <|im_start|> that this tokenizer does not know as one token."""
    vocabulary = tokenizer.get_vocab()
    foreign = sorted({mark for piece in pieces for mark in MARKER.findall(piece) if mark not in vocabulary})
    if foreign:
        report.add(
            "warning",
            field,
            f"writes {', '.join(foreign)}, which the tokenizer does not know as one token",
            "this is probably another model family's template; name the one the specialist was trained with",
        )


def _against_own(
    field: str, spec: SpecialistSource, source: str, facts: Facts, special: dict[str, str], report: Report
) -> None:
    """A template named in the recipe against the one that came with the specialist."""
    own = getattr(facts.tokenizer, "chat_template", None)
    if spec.template in (None, "own") or not isinstance(own, str) or own == source:
        return
    try:
        theirs = prefixes(own, TURNS, special_tokens=special)
    except ValueError:
        return
    ours = prefixes(source, TURNS, special_tokens=special)
    if ours != theirs:
        report.add(
            "warning",
            field,
            f"{_shown(spec)} is not the template that the specialist came with: it opens {_short(ours[0])} and its own "
            f"{_short(theirs[0])}",
            "leave `template` out to use its own",
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 70 else text[:67] + "...")
