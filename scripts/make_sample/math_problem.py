"""What a generated maths problem is, the words the generators share, and how numbers are written."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

NAMES = [
    "Ada",
    "Amir",
    "Bea",
    "Carlos",
    "Chen",
    "Dana",
    "Elif",
    "Emil",
    "Farah",
    "Greta",
    "Hugo",
    "Ines",
    "Ivan",
    "Jamal",
    "Jonas",
    "Kaia",
    "Lena",
    "Leo",
    "Mara",
    "Mei",
    "Milo",
    "Nadia",
    "Nils",
    "Olga",
    "Omar",
    "Petra",
    "Priya",
    "Rosa",
    "Sami",
    "Sara",
    "Tariq",
    "Theo",
    "Uma",
    "Vera",
    "Wen",
    "Yara",
    "Yusuf",
    "Zoe",
]
GOODS = [
    "pencils",
    "notebooks",
    "apples",
    "oranges",
    "stickers",
    "marbles",
    "postcards",
    "candles",
    "muffins",
    "buttons",
    "erasers",
    "tickets",
    "magnets",
    "beads",
    "sandwiches",
    "lanterns",
]
PLACES = [
    "bakery",
    "market",
    "garden",
    "school",
    "library",
    "harbour",
    "workshop",
    "museum",
    "farm",
    "station",
    "theatre",
]


@dataclass(frozen=True)
class Problem:
    """A question, its worked solution (without the last line), the answer, the numbers it was made from.

    `written` is the answer as the last line has it.
    """

    question: str
    solution: str
    answer: Fraction
    given: dict[str, int | Fraction | list[int]]
    written: str


Family = Callable[[random.Random], Problem]
Check = Callable[..., Fraction | int]


def show(value: int | Fraction) -> str:
    """A number as people write it: 3, 2.5, or 5/8 when it has no short decimal form."""
    value = Fraction(value)
    if value.denominator == 1:
        return str(value.numerator)
    for digits in (1, 2):
        if (value * 10**digits).denominator == 1:
            return f"{float(value):.{digits}f}"
    return f"{value.numerator}/{value.denominator}"


def people(rng: random.Random, count: int = 2) -> list[str]:
    """Different first names."""
    return rng.sample(NAMES, count)


def plural(count: int, word: str) -> str:
    """`3 parts`, `1 part`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def problem(question: str, solution: str, answer: int | Fraction, **given: int | Fraction | list[int]) -> Problem:
    """A problem whose answer is written as a whole number or a short decimal."""
    return Problem(question, solution, Fraction(answer), given, show(answer))
