"""Problems about sequences, counting and chance; every function is one template family."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from math import comb

from .math_problem import Problem, people, problem


def arithmetic_sequence(rng: random.Random) -> Problem:
    """The n-th term of a sequence with equal steps."""
    first, step, n = rng.randint(1, 30), rng.randint(2, 12), rng.randint(8, 40)
    last = first + (n - 1) * step
    terms = ", ".join(str(first + i * step) for i in range(4))
    question = rng.choice(
        [
            f"A sequence begins {terms} and goes on in the same way. What is its term number {n}?",
            f"The numbers {terms}, ... grow by the same amount each time. Find number {n} of the list.",
            f"In a theatre the first row has {first} seats and every row has {step} more than the one before. How "
            f"many seats "
            f"does row {n} have?",
        ]
    )
    solution = (
        f"Each step adds {step}. From the first to number {n} there are {n} - 1 = {n - 1} steps.\n"
        + rng.choice(["They add", "Together the steps make"])
        + f" {n - 1} * {step} = {(n - 1) * step}, so the value is {first} + {(n - 1) * step} = {last}."
    )
    return problem(question, solution, last, first=first, step=step, n=n)


def sum_of_range(rng: random.Random) -> Problem:
    """Sum of the whole numbers up to n."""
    n = 2 * rng.randint(6, 60)
    (who,) = people(rng, 1)
    question = rng.choice(
        [
            f"What is the sum of all whole numbers from 1 to {n}?",
            f"Add up 1 + 2 + 3 and so on up to {n}. What is the total?",
            f"{who} puts 1 coin into a jar on the first day, 2 on the second, 3 on the third and so on. How many "
            f"coins are in "
            f"the jar after {n} days?",
        ]
    )
    solution = (
        f"Pair the first with the last number: 1 + {n} = {n + 1}. All pairs have this sum.\n"
        f"There are {n} / 2 = {n // 2} pairs, "
        + rng.choice(["so the sum is", "which gives"])
        + f" {n // 2} * {n + 1} = {n * (n + 1) // 2}."
    )
    return problem(question, solution, n * (n + 1) // 2, n=n)


def drawing_balls(rng: random.Random) -> Problem:
    """Probability of one colour among three."""
    colors = rng.sample(["red", "blue", "green", "white", "black", "yellow"], 3)
    counts = [rng.randint(1, 9) for _ in colors]
    total = sum(counts)
    chance = Fraction(counts[0], total)
    where = rng.choice(["bag", "box", "jar"])
    question = rng.choice(
        [
            f"A {where} holds {counts[0]} {colors[0]}, {counts[1]} {colors[1]} and {counts[2]} {colors[2]} balls. "
            f"One ball is "
            f"taken without looking. What is the probability that it is {colors[0]}? Give a fraction in lowest terms.",
            f"There are {counts[1]} {colors[1]}, {counts[2]} {colors[2]} and {counts[0]} {colors[0]} balls in a "
            f"{where}. What is "
            f"the chance to draw a {colors[0]} one, as a fraction in lowest terms?",
        ]
    )
    whole = (
        f"The {where} holds {' + '.join(map(str, counts))} = {total} balls, and {counts[0]} of them are {colors[0]}.\n"
    )
    fraction = f"{chance.numerator}/{chance.denominator}"
    reduced = f" = {fraction}" if chance.denominator != total else ""
    solution = whole + f"The probability is {counts[0]}/{total}{reduced}."
    return replace(problem(question, solution, chance, counts=counts), written=fraction)


def handshakes(rng: random.Random) -> Problem:
    """Pairs in a group."""
    n = rng.randint(5, 24)
    question = rng.choice(
        [
            f"At a meeting of {n} people everybody shakes hands with everybody else once. How many handshakes are "
            f"there?",
            f"{n} teams play a tournament in which each team meets each other team once. How many games are played?",
            f"In how many ways can two of {n} pupils be chosen for a task?",
        ]
    )
    solution = rng.choice(
        [
            f"Each of the {n} has {n} - 1 = {n - 1} partners, which makes {n} * {n - 1} = {n * (n - 1)}.\nEvery pair "
            f"was counted "
            f"twice, so there are {n * (n - 1)} / 2 = {comb(n, 2)}.",
            f"Count ordered pairs first: {n} * {n - 1} = {n * (n - 1)}. The order does not matter, so divide by two: "
            f"{n * (n - 1)} / 2 = {comb(n, 2)}.",
        ]
    )
    return problem(question, solution, comb(n, 2), n=n)


def doubling(rng: random.Random) -> Problem:
    """Repeated doubling or tripling."""
    start, factor, steps = rng.randint(2, 9), rng.choice([2, 3]), rng.randint(3, 5)
    word = {2: "doubles", 3: "triples"}[factor]
    thing = rng.choice(
        ["The number of bacteria in a dish", "The number of lilies on a pond", "The number of yeast cells in a glass"]
    )
    values = [start * factor**i for i in range(steps + 1)]
    question = rng.choice(
        [
            f"{thing} {word} every hour. At first there are {start}. How many are there after {steps} hours?",
            f"{thing} {word} each hour, starting with {start}. What is it {steps} hours later?",
        ]
    )
    lines = [f"After hour {i}: {values[i - 1]} * {factor} = {values[i]}." for i in range(1, steps + 1)]
    solution = rng.choice(["Go hour by hour.\n", f"Multiply by {factor} once for every hour.\n"]) + "\n".join(lines)
    return problem(question, solution, values[-1], start=start, factor=factor, steps=steps)
