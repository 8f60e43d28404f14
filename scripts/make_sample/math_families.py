"""The table of maths families, the split, a second way to compute every answer, and the records made from them."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from math import isclose

from . import math_money as money
from . import math_numbers as nums
from . import math_patterns as patterns
from . import math_quantities as quant
from . import math_shapes as shapes
from .arithmetic import equations
from .math_problem import Check, Family, Problem


def _pour(a: int, p: int, b: int, q: int) -> Fraction:
    pure = Fraction(a) * Fraction(p, 100) + Fraction(b) * Fraction(q, 100)
    return pure / (a + b) * 100


def _overtime(hours: int, wage: int, extra: int) -> Fraction:
    return wage * (hours + Fraction(3, 2) * extra)


def _euclid_free_gcd(x: int, y: int) -> int:
    return max(d for d in range(1, min(x, y) + 1) if x % d == y % d == 0)


def _legs(heads: int, legs: int) -> int:
    return next(four for four in range(heads + 1) if 4 * four + 2 * (heads - four) == legs)


def _smallest_crossing(v: int, w: int, gap: int) -> int:
    return next(t for t in itertools.count(1) if v * t >= gap - w * t)


FAMILIES: dict[str, Family] = {
    function.__name__: function
    for function in (
        money.shopping_change,
        money.discount_price,
        money.simple_interest,
        money.hourly_pay,
        money.percent_of_group,
        money.saving_weeks,
        money.profit,
        money.unit_price,
        money.percent_increase,
        money.splitting_bill,
        quant.trip_distance,
        quant.meeting_trains,
        quant.work_together,
        quant.mixture,
        quant.ages,
        quant.sharing_ratio,
        shapes.room_tiles,
        shapes.fence_length,
        shapes.unit_conversion,
        quant.missing_score,
        quant.travel_time,
        shapes.box_filling,
        nums.linear_equation,
        nums.sum_and_difference,
        nums.heads_and_legs,
        patterns.arithmetic_sequence,
        patterns.sum_of_range,
        nums.greatest_divisor,
        nums.common_multiple,
        patterns.drawing_balls,
        patterns.handshakes,
        patterns.doubling,
        nums.remainder,
        nums.fraction_of_rest,
    )
}

HELD_OUT = frozenset(
    [
        "hourly_pay",
        "percent_increase",
        "unit_price",
        "meeting_trains",
        "sharing_ratio",
        "fence_length",
        "heads_and_legs",
        "handshakes",
        "fraction_of_rest",
    ]
)

# Every answer a second time from the numbers of the question, by another route than the generator takes.
CHECKS: dict[str, Check] = {
    "shopping_change": lambda a, p, b, q, note: note - sum([p] * a) - sum([q] * b),
    "discount_price": lambda price, off: price * Fraction(100 - off, 100),
    "simple_interest": lambda sum_, rate, years: sum_ * (1 + Fraction(rate * years, 100)),
    "hourly_pay": _overtime,
    "percent_of_group": lambda total, share: total * (1 - Fraction(share, 100)),
    "saving_weeks": lambda price, have, weekly: next(n for n in itertools.count() if have + n * weekly >= price),
    "profit": lambda n, cost, price, stall: sum(price - cost for _ in range(n)) - stall,
    "unit_price": lambda pack, paid, want: Fraction(paid * want, pack),
    "percent_increase": lambda old, new: (Fraction(new, old) - 1) * 100,
    "splitting_bill": lambda bill, tip, friends: Fraction(bill, friends) * Fraction(100 + tip, 100),
    "trip_distance": lambda v, t, w, u: sum([v] * t + [w] * u),
    "meeting_trains": _smallest_crossing,
    "work_together": lambda x, y: 1 / (Fraction(1, x) + Fraction(1, y)),
    "mixture": _pour,
    "ages": lambda times, later, total: next(n for n in range(200) if n + later + times * n + later == total),
    "sharing_ratio": lambda x, y, total: total * Fraction(max(x, y), x + y),
    "room_tiles": lambda width, length, tile: Fraction(width * length, tile * tile),
    "fence_length": lambda around, length: length * (Fraction(around, 2) - length),
    "unit_conversion": lambda whole, factor, size: Fraction(whole) / Fraction(size, factor),
    "missing_score": lambda mean, scores: mean + sum(mean - score for score in scores),
    "travel_time": lambda speed, km: Fraction(km) / Fraction(speed, 60),
    "box_filling": lambda edges, side: Fraction(edges[0] * edges[1] * edges[2], side**3),
    "linear_equation": lambda a, b, c: next(x for x in range(1000) if a * x + b == c),
    "sum_and_difference": lambda total, diff: next(n for n in range(total) if n - (total - n) == diff),
    "heads_and_legs": _legs,
    "arithmetic_sequence": lambda first, step, n: list(itertools.islice(itertools.count(first, step), n))[-1],
    "sum_of_range": lambda n: sum(range(1, n + 1)),
    "greatest_divisor": _euclid_free_gcd,
    "common_multiple": lambda a, b: next(n for n in itertools.count(1) if n % a == n % b == 0),
    "drawing_balls": lambda counts: 1 - Fraction(counts[1] + counts[2], sum(counts)),
    "handshakes": lambda n: len(list(itertools.combinations(range(n), 2))),
    "doubling": lambda start, factor, steps: start * factor**steps,
    "remainder": lambda total, size: total % size,
    "fraction_of_rest": lambda total, a, b: total * (1 - Fraction(1, a)) * (1 - Fraction(1, b)),
}


def verify(family: str, made: Problem) -> None:
    """ValueError when the second computation, or an equation in the worked steps, does not agree."""
    second = Fraction(CHECKS[family](**made.given))
    if second != made.answer:
        raise ValueError(f"{family}: answer {made.answer}, recomputed {second}: {made.question}")
    worked = equations(made.solution)
    wrong = [text for text, holds in worked if not holds]
    if wrong or not (worked or family == "drawing_balls"):
        raise ValueError(f"{family}: equation does not hold or is missing: {wrong}: {made.solution}")
    if not isclose(float(made.answer), float(Fraction(made.written))):
        raise ValueError(f"{family}: {made.answer} is not written exactly")


def make_math(split: str, per_family: int, seed: int) -> list[dict[str, object]]:
    """Verified records of one split without ids, families interleaved, no question twice."""
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    streams = {name: random.Random(f"{seed}/{name}") for name in FAMILIES if (name in HELD_OUT) == (split == "heldout")}
    for _ in range(per_family):
        for name, stream in streams.items():
            made = FAMILIES[name](stream)
            while made.question in seen:
                made = FAMILIES[name](stream)
            verify(name, made)
            seen.add(made.question)
            answer = f"{made.solution}\nThe answer is {made.written}."
            messages = [{"role": "user", "content": made.question}, {"role": "assistant", "content": answer}]
            rows.append({"family": name, "messages": messages})
    return rows
