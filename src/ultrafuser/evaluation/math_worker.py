"""The process that compares mathematical answers by math-verify: one JSON line in, one JSON line out.

It runs as `python -m ultrafuser.evaluation.math_worker`, started by `math_answers.MathChecker`. It knows neither
benchmarks nor models. What it adds to math-verify is where to look: "####" lines, "the answer is" lines, the last line
with a number. What a text means, and whether two texts mean the same, is math-verify's to say.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, TextIO

__all__ = ["Seen", "check", "main"]

MEMORY_BYTES = 3 << 30  # of addresses; a power tower would take all there is
LONGEST = 20_000  # characters of an answer that are read, from its end
SHOWN = 200  # characters of what was extracted

Seen = dict[str, Any]  # correct, extracted, note

_MARK = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator marks
_BOLD = re.compile(r"(?<![\w)*])\*\*(?=\S)(.+?)(?<=\S)\*\*(?![\w(*])")
_DEBT = re.compile(r"(?<![\w)])-([$€£¥])(?=\.?\d)")  # -$5
_BRACKETED = re.compile(r"[(\[]\s*([$€£¥]?-?\d[\d.,]*%?)\s*[)\]]")
_STATEMENT = re.compile(
    r"""(?imx)
    \banswers?\b \s* (?:\([^)\n]{0,40}\)\s*)? (?:[\w' ]{0,60}?\b(?:is|was|are|be)\b|:|=) \s*:?
    |^[#*\s]*(?:the\s+)?(?:final\s+)?answer[*\s]*$  # a heading
    """
)
_SENTENCE = re.compile(r"(?s)\A(.*?\d.*?)(?:\n|[.!?;]\s+(?=[A-Z*])|\Z)")
_JOINT = re.compile(r"(?i)\s*(?:,|\bor\b|\band\b)\s+(?=[$€£¥\\(\s-]*\d)")
_SHORT = re.compile(r"\W*\d[\d.,/%]*(?:\s+\w+)?\W*")  # a number, and a unit perhaps
_UNIT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{[^{}\d]*\}")  # words within a formula
_WITH_NUMBER = re.compile(r"(?!\s*\d+[.)]\s*\Z).*\d")  # and not only the number of a list's next point
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2009\u202f\u2007"), " ")
_SIGNS = {ord("−"): "-", ord("\u2011"): "-", ord("–"): "-"}


def check(gold: str, answer: str, kind: str) -> Seen:
    """Whether the final answer in a model's whole `answer` equals `gold`: {"correct", "extracted", "note"}."""
    from math_verify import verify

    expected = _parse(gold if kind == "number" else f"\\boxed{{{gold}}}", kind)
    if not expected:
        return _seen(False, None, f"the reference answer {gold!r:.60} cannot be read")
    read = _number if kind == "number" else _latex
    found, note = read(answer[-LONGEST:].translate(_SPACES | _SIGNS))
    if not found:
        return _seen(False, None, note or "no answer found")
    extracted = next((part for part in found if isinstance(part, str)), None)
    right = bool(verify(expected, found))
    return _seen(right, extracted if extracted is not None else str(found[0]), note)


def _seen(correct: bool, extracted: str | None, note: str) -> Seen:
    return {"correct": correct, "extracted": extracted[:SHOWN] if extracted else extracted, "note": note}


def _parse(text: str, kind: str) -> list[Any]:
    """math-verify's reading of a text: [expression, its text], or [] where it finds nothing.

    Only the rightmost match of the highest priority is tried ("first_match"): where a final answer cannot be read, a
    step before it must not be taken in its place.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    latex, plain = LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()
    targets = (plain, latex) if kind == "number" else (latex, plain)
    found: list[Any] = parse(text, targets, extraction_mode="first_match")
    return found


def _latex(answer: str) -> tuple[list[Any], str]:
    """The final answer of a MATH solution: the last box, else the last "answer is", else the last formula."""
    if _last_box(answer) is not None:
        return _parse(answer, "latex"), ""
    answer = _BOLD.sub(r"\1", answer)
    statement = _last(_STATEMENT, answer)
    if statement is not None:
        found = _parse(answer[statement.start() :], "latex")
        if found:
            return found, ""
    found = _parse(_without_anchors(answer), "latex")
    return found, "no box and no stated answer: the last formula" if found else ""


def _number(answer: str) -> tuple[list[Any], str]:
    """The final number: after the last "####" or in the last box, else as stated, else the last one."""
    text = _UNIT.sub(" ", _DEBT.sub(r"\1-", _BOLD.sub(r"\1", _MARK.sub("", answer))))
    box, marked = _last_box(text), text.rfind("####")
    if box is not None and box[0] > marked:
        return _parse(text[box[0] : box[1]], "number"), ""
    if marked >= 0:
        return _stated(text[marked + 4 :])
    statement = _last(_STATEMENT, text)
    if statement is not None:
        found, note = _stated(text[statement.end() :])
        if found or note:
            return found, note
    for line in reversed(text.splitlines()):
        found = _plain(_without_anchors(line)) if _WITH_NUMBER.match(line) else []
        if found:
            return found, "no stated answer: the last number"
    return [], ""


def _stated(text: str) -> tuple[list[Any], str]:
    """The number that a statement gives, in its first sentence with a digit; none where it gives two ("18 or 20")."""
    from math_verify import verify

    sentence = _SENTENCE.match(text.strip())
    if sentence is None:
        return [], ""
    first, *others = _JOINT.split(sentence[1])
    found = _plain(f"Answer: {first}")
    for other in others:
        if _SHORT.fullmatch(other) and not verify(found, _plain(f"Answer: {other}")):
            return [], f"two answers: {sentence[1].strip():.60}"
    return found, ""


def _plain(text: str) -> list[Any]:
    """A number in running text; in brackets too, which math-verify takes for an unfinished sum."""
    found = _parse(text, "number")
    if all(isinstance(part, str) for part in found):
        found = _parse(_BRACKETED.sub(r" \1 ", text), "number")
    return found


def _without_anchors(text: str) -> str:
    """The text without the word that math-verify takes for the announcement of an answer, wherever it stands."""
    return re.sub(r"(?i)answer", "result", text)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for last in pattern.finditer(text):  # noqa: B007
        pass
    return last


def _last_box(text: str) -> tuple[int, int] | None:
    """Start and end of the last \\boxed{...} that is closed."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        depth = 0
        for place in range(start + 6, len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                return start, place + 1
    return None


def main(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until their stream ends: [gold, answer, kind, seconds] each, a `Seen` in return.

    After `seconds` the process ends itself, even inside a computation that no signal interrupts: its parent, which
    ends it too, may be gone.
    """
    import faulthandler

    import math_verify  # noqa: F401 - the slow part, before "ready"

    with open(os.devnull, "w") as nowhere:
        replies.write('"ready"\n')
        replies.flush()
        for line in requests:
            gold, answer, kind, seconds = json.loads(line)
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            try:
                seen = check(gold, answer, kind)
            except Exception as error:
                seen = _seen(False, None, f"{type(error).__name__}: {error}"[:200])
            faulthandler.cancel_dump_traceback_later()
            replies.write(json.dumps(seen) + "\n")
            replies.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    import logging
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    logging.disable(logging.CRITICAL)
    _limit_memory()
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing else may speak on that line
    main(sys.stdin, replies)
