"""The letter that an answer to a multiple-choice question settles on.

The rule looks, in this order, at the last \\boxed{...}; the last line that states a choice ("the answer is (B)",
"Answer: B", "option B is correct"); lines that are a letter, with or without its option's text; a letter that ends
the text ("so (B)."). Wherever the answer is found, all letters named there must be one and the same: an answer that
names two is none. A statement made later replaces an earlier one, as a solution that corrects itself means it to.
"""

from __future__ import annotations

import re

__all__ = ["final_letter"]

LONGEST_LINE = 400  # characters of a line that can be an option's letter and text

_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_WRAPPING = re.compile(r"\\(?:text|textbf|textrm|mathbf|mathrm|boldsymbol|boxed)\b|\\[()\[\] ,;]|[*_`${}]")
_LETTER = re.compile(
    r"""\(\s*([A-Ea-e])\s*\)                                   # (B)
    |([A-E])(?![\w'’]|\s*=|\s+(?!because|since|as\b|and\b|or\b|is\b|are\b|which|with)[a-z])   # B, but not "A car"
    |([a-e])(?=[).]|\s*\Z|\s*\n)                               # b) or b at the end of a line
    """,
    re.VERBOSE,
)
_JOINT = re.compile(r"(?i)[).:]?\s*(?:,\s*(?:or|and)?|/|&|\bor\b|\band\b)\s*(?:option|choice)?\s*")
_REJECTED = re.compile(r"(?i)\)?\s+(?:is|are|was|were)\b")
_LATER = re.compile(r"\b(?:or|OR)\s+(?:option\s+|choice\s+)?(?=\(?[A-E]\b)")
_STATED = re.compile(
    r"""(?ix)
    \b(?:answer|ans|choice|option)s?\b [^.\n]{0,40}? (?:\bis\b|\bare\b|\bbe\b|:|=) [\s:]*
        (?:(?:likely|probably|therefore|thus|clearly|simply|indeed|either)\b[\s,:]*)?
        (?:(?:option|choice|letter|answer)\b[\s:]*)?
    |\banswer\s+(?:(?:option|choice)\s+)?(?=\(?(?-i:[A-E])\b(?!\)?\s+(?:is|are|was|and|or)\b))
    |\b(?:choose|select|pick|mark|is|be|with|to|match(?:es|ing)?)\s+(?:option|choice|answer|letter)\s+
    """
)
_CONFIRMED = re.compile(r"(?i)\)?\s+is\s+(?:therefore\s+|thus\s+|indeed\s+)?(?:the\s+)?(?:correct|right|answer|best)\b")
_ALONE = re.compile(r"(?i)\W*(?:option|choice|answer)?\W*(\(?[A-E]\)?)\W*")
_WITH_TEXT = re.compile(r"\(?([A-Ea-e])(?:\)|[.:])\s*\S.*|\(([A-Ea-e])\).*|([A-E])(?=\s+(?:because|since)\b).*")
_ENDING = re.compile(
    r"(?:(?i:\b(?:so|is|thus|therefore|hence|to)[\s:,]+)|[=→⇒]\s*)\(?([A-E])\)?\W*\Z|(?<!\bnot )\(([A-E])\)\W*\Z"
)


def final_letter(answer: str) -> tuple[str | None, str]:
    """The letter A to E that the answer settles on, or None, and what there is to say about it."""
    for box in reversed(_BOX.findall(answer)):
        letters = _joined(_bare(box).strip(), 0)
        if letters:
            return _one(letters, "the box")
    text = _bare(answer)
    letters = _stated(text)
    if letters:
        return _one(letters, "the answer stated last")
    lines = [line.strip() for line in text.splitlines() if len(line) <= LONGEST_LINE]
    for pattern in (_ALONE, _WITH_TEXT):
        found = [match for line in lines if (match := pattern.fullmatch(line))]
        if found:
            return _one([_group(match).strip("()") for match in found], "lines that name an option")
    ending = _ENDING.search(text)
    return (_group(ending), "") if ending else (None, "no letter found")


def _bare(text: str) -> str:
    return _WRAPPING.sub("", text)


def _group(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def _one(letters: list[str], where: str) -> tuple[str | None, str]:
    different = sorted({letter.upper() for letter in letters})
    if len(different) == 1:
        return different[0], ""
    return None, f"{where} names {' and '.join(different)}"


def _stated(text: str) -> list[str]:
    """All letters in the statements of the last line that holds one."""
    found: list[tuple[int, list[str]]] = []
    for statement in _STATED.finditer(text):
        letters = _joined(text, statement.end())
        if letters:
            found.append((_line(text, statement.end()), letters))
    for letter in _LETTER.finditer(text):
        if _CONFIRMED.match(text, letter.end()):
            found.append((_line(text, letter.start()), [_group(letter)]))
    last = max((line for line, _ in found), default=0)
    return [letter for line, letters in found if line == last for letter in letters]


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place)


def _joined(text: str, place: int) -> list[str]:
    """The letters that start at a place, joined by commas, "or" and "and"; and any later in the line after an "or"."""
    letters: list[str] = []
    while match := _LETTER.match(text, place):
        if letters and _REJECTED.match(text, match.end()):
            break  # "(B), and (C) is wrong"
        letters.append(_group(match))
        place = match.end()
        joint = _JOINT.match(text, place)
        if joint is None:
            break
        place = joint.end()
    if letters:
        end = text.find("\n", place)
        rest = text[place : end if end >= 0 else len(text)]
        letters += [_group(match) for later in _LATER.finditer(rest) if (match := _LETTER.match(rest, later.end()))]
    return letters
