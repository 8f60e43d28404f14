"""Finds equations such as `3 * (4 + 1) = 15` in text and says which of them are wrong; exact, with fractions."""

from __future__ import annotations

import ast
import re
from fractions import Fraction
from itertools import pairwise

_ALLOWED = re.compile(r"[0-9.+\-*/() ]+")
_SIGNS = {"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-", "^": "**", "\u00b2": "**2", "\\times": "*"}


def evaluate(expression: str) -> Fraction:
    """The value of an expression of numbers, + - * / ** and brackets. ValueError for anything else."""
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise ValueError(f"not arithmetic: {expression!r}") from error


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
            case ast.Pow() if right.denominator == 1 and abs(right) <= 64:
                return left**right.numerator
    raise ValueError("not arithmetic")


def clean(text: str) -> str:
    """Writes signs, money, thousands and per cents in the one form that `evaluate` reads."""
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=[\d(])", " * ", text)
    text = re.sub(r"[$\u20ac\u00a3]", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(\d+(?:\.\d+)?) ?%", r"(\1/100)", text)
    return re.sub(r"/100\) of (?=[\d(])", "/100) * ", text)


def _side(text: str, at_end: bool) -> Fraction | None:
    """The arithmetic at the end (or start) of `text`, tried as it is and then without words for units."""
    for candidate in (text, re.sub(r"[A-Za-z]+", " ", text)):
        runs = list(_ALLOWED.finditer(candidate))
        fitting = [run for run in runs if (run.end() == len(candidate) if at_end else run.start() == 0)]
        for run in fitting:
            piece = run.group().strip().rstrip(".")
            if re.search(r"\d", piece):
                try:
                    return evaluate(piece)
                except ValueError:
                    continue
    return None


def _first_number(text: str) -> tuple[Fraction, int] | None:
    """The number that stands right after an equals sign, and how many decimals it was written with."""
    found = re.match(r"\s*(-?\d+(?:\.(\d+))?)", text)
    return (Fraction(found.group(1)), len(found.group(2) or "")) if found else None


def equations(text: str) -> list[tuple[str, bool]]:
    """Every equation whose left side is arithmetic with an operator, with whether it holds as far as it is rounded."""
    found: list[tuple[str, bool]] = []
    for line in text.splitlines():
        parts = re.split(r"(?<![<>!=])=(?!=)|\u2248", clean(line))
        for left, right in pairwise(parts):
            operators = re.search(r"\d[^=]*?[-+*/][^=]*?\d", left)
            value, number = _side(left.rstrip(), at_end=True), _first_number(right.replace("(", " ", 1))
            if not operators or re.search(r"sqrt|\u221a|!", left) or value is None or number is None:
                continue
            stated, decimals = number
            plain_right = _side(re.split(r"[.,;:] |[a-z]{3,}", right.strip() + " ")[0].strip(), at_end=False)
            slack = Fraction(51, 100) / 10**decimals if decimals else Fraction(1, 1000)
            holds = abs(value - stated) <= slack or abs(value * 100 - stated) <= slack
            holds = holds or (plain_right is not None and abs(value - plain_right) <= slack)
            found.append((f"{left.strip()} = {right.strip()}", holds))
    return found


def numbers(text: str) -> set[Fraction]:
    """Every number that stands in the text."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return {Fraction(piece) for piece in re.findall(r"\d+(?:\.\d+)?", text)}
