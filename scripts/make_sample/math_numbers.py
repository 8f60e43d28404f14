"""Problems about equations, divisibility, chance and sequences; every function is one template family."""

from __future__ import annotations

import random
from fractions import Fraction
from math import gcd

from .math_problem import GOODS, Problem, people, problem, show


def linear_equation(rng: random.Random) -> Problem:
    """a x + b = c."""
    a, x, b = rng.randint(2, 12), rng.randint(2, 15), rng.randint(1, 40)
    c = a * x + b
    question = rng.choice(
        [
            f"Solve for x: {a}x + {b} = {c}.",
            f"Find the value of x with {a}x + {b} = {c}.",
            f"If {a} times a number plus {b} equals {c}, what is the number?",
            f"I think of a number, multiply it by {a} and add {b}. The result is {c}. Which number is it?",
        ]
    )
    solution = rng.choice(
        [
            f"Take {b} away from both sides: {c} - {b} = {c - b}.\nDivide by {a}: {c - b} / {a} = {x}.",
            f"Go backwards. Before {b} was added there was {c} - {b} = {c - b}. Before the multiplication there was "
            f"{c - b} / {a} = {x}.",
        ]
    )
    return problem(question, solution, x, a=a, b=b, c=c)


def sum_and_difference(rng: random.Random) -> Problem:
    """Two numbers from their sum and difference."""
    small, diff = rng.randint(3, 60), rng.randint(2, 40)
    big = small + diff
    a, b = people(rng)
    question = rng.choice(
        [
            f"The sum of two numbers is {small + big} and their difference is {diff}. What is the larger number?",
            f"{a} and {b} have {small + big} {rng.choice(GOODS)} together. {a} has {diff} more than {b}. How many "
            f"does {a} have?",
        ]
    )
    solution = (
        f"Twice the larger number is the sum plus the difference: {small + big} + {diff} = {small + big + diff}.\n"
        + rng.choice(["Half of that is", "So the larger one is"])
        + f" {small + big + diff} / 2 = {big}."
    )
    return problem(question, solution, big, total=small + big, diff=diff)


def heads_and_legs(rng: random.Random) -> Problem:
    """Animals with two and four legs."""
    bird, beast = rng.choice([("hens", "cows"), ("ducks", "sheep"), ("geese", "goats"), ("chickens", "rabbits")])
    two, four = rng.randint(3, 25), rng.randint(3, 25)
    heads, legs = two + four, 2 * two + 4 * four
    question = rng.choice(
        [
            f"On a farm there are {bird} and {beast}. Together they have {heads} heads and {legs} legs. How many "
            f"{beast} are "
            f"there?",
            f"A farmer counts {heads} heads and {legs} legs among the {bird} and {beast}. Find the number of {beast}.",
        ]
    )
    solution = (
        f"If all were {bird}, there would be {heads} * 2 = {heads * 2} legs.\nThere are {legs} - {heads * 2} = "
        f"{4 * four - 2 * four} "
        f"legs more, and each of the {beast} has 2 legs more than a bird.\n"
        + rng.choice(
            [f"There are {2 * four} / 2 = {four} {beast}.", f"The number of {beast} is {2 * four} / 2 = {four}."]
        )
    )
    return problem(question, solution, four, heads=heads, legs=legs)


def greatest_divisor(rng: random.Random) -> Problem:
    """Greatest common divisor by Euclid's method."""
    g, a, b = rng.randint(2, 15), rng.randint(3, 14), rng.randint(3, 14)
    x, y = sorted((g * a, g * b + g * a), reverse=True)
    result = gcd(x, y)
    good, other = rng.sample(GOODS, 2)
    question = rng.choice(
        [
            f"Find the greatest common divisor of {x} and {y}.",
            f"{x} {good} and {y} {other} are packed into gift bags so that all bags are alike and nothing is left "
            f"over. What is "
            f"the largest possible number of bags?",
        ]
    )
    steps, p, q = [], x, y
    while q:
        steps.append(f"{p} divided by {q} leaves {p % q}: {p} - {p // q} * {q} = {p % q}.")
        p, q = q, p % q
    solution = (
        "Divide again and again and keep the remainder.\n"
        + "\n".join(steps)
        + "\n"
        + rng.choice(
            [
                f"The last remainder that is not zero, or the last divisor, is {result}.",
                f"The last number we divided by is {result}.",
            ]
        )
    )
    return problem(question, solution, result, x=x, y=y)


def common_multiple(rng: random.Random) -> Problem:
    """When two repeating events fall together."""
    a, b = rng.choice(
        [
            (4, 6),
            (6, 8),
            (6, 9),
            (8, 12),
            (9, 12),
            (10, 15),
            (12, 18),
            (6, 10),
            (8, 10),
            (12, 20),
            (14, 21),
            (15, 20),
            (16, 24),
            (9, 15),
            (10, 25),
            (12, 15),
            (14, 35),
            (20, 25),
            (18, 24),
            (15, 25),
            (12, 30),
        ]
    )
    thing = rng.choice(["bells ring", "buses leave", "lights flash", "fountains start"])
    lcm = a * b // gcd(a, b)
    question = rng.choice(
        [
            f"Two {thing} together now. One does so every {a} minutes and the other every {b} minutes. After how "
            f"many minutes "
            f"does it happen together again?",
            f"What is the least common multiple of {a} and {b}?",
        ]
    )
    listed = ", ".join(str(b * i) for i in range(1, lcm // b + 1))
    solution = rng.choice(
        [
            f"List the multiples of {b}: {listed}.\nThe first of them that {a} divides is {lcm}, since {lcm} / {a} = "
            f"{lcm // a}.",
            f"The common divisor of both is {gcd(a, b)}. The product is {a} * {b} = {a * b}, and {a * b} / "
            f"{gcd(a, b)} = {lcm}.",
        ]
    )
    return problem(question, solution, lcm, a=a, b=b)


def remainder(rng: random.Random) -> Problem:
    """What is left when things are packed in groups."""
    (who,), good = people(rng, 1), rng.choice(GOODS)
    size, full = rng.randint(4, 13), rng.randint(6, 30)
    rest = rng.randint(1, size - 1)
    total = size * full + rest
    question = rng.choice(
        [
            f"{who} packs {total} {good} into boxes of {size}. How many {good} are left over?",
            f"What is the remainder when {total} is divided by {size}?",
            f"{total} {good} are shared equally among {size} children, each getting as many as possible. How many "
            f"remain?",
        ]
    )
    solution = (
        f"The largest multiple of {size} that fits is {full} * {size} = {full * size}.\n"
        + rng.choice(["What remains is", "The rest is"])
        + f" {total} - {full * size} = {rest}."
    )
    return problem(question, solution, rest, total=total, size=size)


def fraction_of_rest(rng: random.Random) -> Problem:
    """A fraction is used, then a fraction of the rest."""
    (who,), good = people(rng, 1), rng.choice(GOODS)
    a, b = rng.randint(2, 6), rng.randint(2, 5)
    total = a * b * rng.randint(2, 9)
    first = total // a
    rest = total - first
    second = Fraction(rest, b)
    if second.denominator != 1:
        total *= b
        first, rest = total // a, total - total // a
        second = Fraction(rest, b)
    left = rest - second
    question = rng.choice(
        [
            f"{who} has {total} {good}. First {who} gives away 1/{a} of them, then 1/{b} of the rest. How many are "
            f"left?",
            f"Of {total} {good}, 1/{a} are sold on Monday and 1/{b} of the remaining ones on Tuesday. How many "
            f"{good} are still "
            f"there?",
        ]
    )
    solution = (
        f"The first part is {total} / {a} = {first}, which leaves {total} - {first} = {rest}.\n"
        f"The second part is {rest} / {b} = {show(second)}. "
        + rng.choice(["In the end", "So"])
        + f" {rest} - {show(second)} = {show(left)} {good} are left."
    )
    return problem(question, solution, left, total=total, a=a, b=b)
