"""Word problems about speed, work, mixtures, ages, ratios, units and shapes; every function is one template family."""

from __future__ import annotations

import random
from fractions import Fraction

from .math_problem import GOODS, PLACES, Problem, people, plural, problem, show


def trip_distance(rng: random.Random) -> Problem:
    """Two legs of a trip at different speeds."""
    (who,) = people(rng, 1)
    how = rng.choice(["by car", "by bus", "by boat", "on a scooter"])
    v, t, w, u = rng.randrange(20, 90, 5), rng.randint(2, 5), rng.randrange(20, 90, 5), rng.randint(1, 4)
    total = v * t + w * u
    question = rng.choice(
        [
            f"{who} travels {how} for {t} hours at {v} km per hour and then for {plural(u, 'more hour')} at "
            f"{w} km per hour. How far does {who} get?",
            f"During the first {t} hours of a trip {how}, {who} goes {v} km every hour. In the next {u} hours it is "
            f"{w} km every "
            f"hour. How many kilometres is the whole trip?",
        ]
    )
    solution = (
        f"The first part is {v} * {t} = {v * t} km long. The second part is {w} * {u} = {w * u} km long.\n"
        + rng.choice(["Together that makes", f"So {who} travels"])
        + f" {v * t} + {w * u} = {total} km."
    )
    return problem(question, solution, total, v=v, t=t, w=w, u=u)


def meeting_trains(rng: random.Random) -> Problem:
    """Two movers towards each other."""
    v, w, hours = rng.randrange(30, 90, 5), rng.randrange(30, 90, 5), rng.randint(2, 6)
    gap = (v + w) * hours
    a, b = people(rng)
    question = rng.choice(
        [
            f"Two trains start at the same time from towns {gap} km apart and move towards each other at {v} and {w} "
            f"km per "
            f"hour. After how many hours do they meet?",
            f"{a} and {b} live {gap} km apart. They drive towards each other, {a} at {v} km per hour and {b} at {w} "
            f"km per hour. "
            f"How many hours pass until they meet?",
        ]
    )
    solution = rng.choice(
        [
            f"Every hour the distance shrinks by {v} + {w} = {v + w} km.\nThe whole distance of {gap} km takes "
            f"{gap} / {v + w} = {hours} hours.",
            f"Together they cover {v} + {w} = {v + w} km in one hour. They meet after {gap} / {v + w} = {hours} hours.",
        ]
    )
    return problem(question, solution, hours, v=v, w=w, gap=gap)


def work_together(rng: random.Random) -> Problem:
    """Two workers with different speeds do one job together."""
    a, b = people(rng)
    x, y, time = rng.choice(
        [
            (3, 6, 2),
            (6, 12, 4),
            (4, 12, 3),
            (10, 15, 6),
            (12, 24, 8),
            (20, 30, 12),
            (5, 20, 4),
            (9, 18, 6),
            (15, 30, 10),
            (8, 24, 6),
            (24, 40, 15),
            (20, 60, 15),
            (30, 60, 20),
        ]
    )
    job = rng.choice(["paint a fence", "sort the mail", "clean the hall", "plant the beds", "pack the boxes"])
    question = rng.choice(
        [
            f"{a} can {job} in {x} hours, and {b} needs {y} hours for it. How many hours do they need together?",
            f"Alone, {a} needs {x} hours to {job}; {b} needs {y} hours. They do it together without getting in each "
            f"other's "
            f"way. How many hours does it take?",
        ]
    )
    lcm = x * y // _gcd(x, y)
    solution = (
        f"Think of the job as {lcm} equal parts. {a} does {lcm} / {x} = {plural(lcm // x, 'part')} in an hour and "
        f"{b} does "
        f"{lcm} / {y} = {plural(lcm // y, 'part')}.\nTogether they do {lcm // x} + {lcm // y} = "
        f"{lcm // x + lcm // y} parts an hour, "
        + rng.choice(["so they need", "and the whole job takes"])
        + f" {lcm} / {lcm // x + lcm // y} = {time} hours."
    )
    return problem(question, solution, time, x=x, y=y)


def _gcd(a: int, b: int) -> int:
    return a if b == 0 else _gcd(b, a % b)


def mixture(rng: random.Random) -> Problem:
    """Strength of a mixture of two solutions."""
    a, b = rng.randint(1, 6), rng.randint(1, 6)
    while True:
        p, q = rng.randrange(5, 60, 5), rng.randrange(5, 90, 5)
        if p != q and (a * p + b * q) % (a + b) == 0:
            break
    strength = (a * p + b * q) // (a + b)
    stuff = rng.choice(["salt water", "syrup", "fruit juice", "vinegar"])
    question = rng.choice(
        [
            f"{plural(a, 'litre')} of {stuff} with a strength of {p}% are mixed with {plural(b, 'litre')} of "
            f"{q}% {stuff}. How strong is the mixture, in per cent?",
            f"A cook pours {plural(a, 'litre')} of {p}% {stuff} and {plural(b, 'litre')} of {q}% {stuff} into one pot. "
            f"What is the strength of the mixture in per cent?",
        ]
    )
    solution = (
        f"Count in hundredths of a litre of pure substance. The first part brings {a} * {p} = {a * p} and the second "
        f"brings "
        f"{b} * {q} = {b * q}.\nThat is {a * p} + {b * q} = {a * p + b * q} in {a} + {b} = {a + b} litres.\n"
        + rng.choice(["The strength is", "So the mixture has"])
        + f" {a * p + b * q} / {a + b} = {strength} per cent."
    )
    return problem(question, solution, strength, a=a, p=p, b=b, q=q)


def ages(rng: random.Random) -> Problem:
    """Ages now from a multiple and a difference."""
    a, b = people(rng)
    times, young, later = rng.randint(2, 5), rng.randint(3, 14), rng.randint(2, 9)
    total = young * (times + 1) + 2 * later
    question = rng.choice(
        [
            f"{a} is {times} times as old as {b}. In {later} years their ages together will be {total}. How old is "
            f"{b} now?",
            f"{b} is younger than {a}, who is {times} times as old. The sum of their ages in {later} years is "
            f"{total}. What is "
            f"the age of {b} today?",
        ]
    )
    solution = (
        f"Both get {later} years older, so the sum today is {total} - 2 * {later} = {total - 2 * later}.\n"
        f"If {b} is one part, {a} is {times} parts, which makes {times} + 1 = {times + 1} parts.\n"
        + rng.choice(["One part is", f"So the age of {b} is"])
        + f" {total - 2 * later} / {times + 1} = {young} years."
    )
    return problem(question, solution, young, times=times, later=later, total=total)


def sharing_ratio(rng: random.Random) -> Problem:
    """Sharing in a ratio; the larger share is asked for."""
    a, b = people(rng)
    x, y = rng.sample(range(1, 8), 2)
    unit, good = rng.randint(3, 20), rng.choice(GOODS)
    total, big = unit * (x + y), unit * max(x, y)
    question = rng.choice(
        [
            f"{a} and {b} share {total} {good} in the ratio {x} to {y}. How many {good} are in the larger share?",
            f"{total} {good} are given to {a} and {b} so that {a} gets {x} for every {y} that {b} gets. What is the "
            f"larger of "
            f"the two shares?",
        ]
    )
    solution = (
        f"There are {x} + {y} = {x + y} parts, and one part is {total} / {x + y} = {unit} {good}.\n"
        + rng.choice(["The larger share has", "The bigger share is made of"])
        + f" {max(x, y)} parts: {max(x, y)} * {unit} = {big} {good}."
    )
    return problem(question, solution, big, x=x, y=y, total=total)


def missing_score(rng: random.Random) -> Problem:
    """The score still needed for a mean."""
    (who,) = people(rng, 1)
    mean, count = rng.randint(60, 90), rng.randint(3, 5)
    scores = [mean + rng.randint(-9, 9) for _ in range(count)]
    need = mean * (count + 1) - sum(scores)
    listed = ", ".join(map(str, scores[:-1])) + f" and {scores[-1]}"
    question = rng.choice(
        [
            f"{who} scored {listed} in {count} tests. What score in the next test brings the mean to {mean}?",
            f"The results of {who} so far are {listed}. How many points are needed in one more test so that the "
            f"average of all "
            f"{count + 1} is {mean}?",
        ]
    )
    solution = (
        f"For a mean of {mean} in {count + 1} tests the sum has to be {mean} * {count + 1} = {mean * (count + 1)}.\n"
        f"So far the sum is {' + '.join(map(str, scores))} = {sum(scores)}.\n"
        + rng.choice(["The next score must be", f"So {who} needs"])
        + f" {mean * (count + 1)} - {sum(scores)} = {need}."
    )
    return problem(question, solution, need, mean=mean, scores=scores)


def travel_time(rng: random.Random) -> Problem:
    """Minutes for a distance at a given speed."""
    (who,), place = people(rng, 1), rng.choice(PLACES)
    speed = rng.choice([4, 5, 6, 10, 12, 15, 20])
    minutes = rng.choice([m for m in range(6, 91, 3) if speed * m % 30 == 0])
    km = Fraction(speed * minutes, 60)
    question = rng.choice(
        [
            f"The {place} is {show(km)} km away. How many minutes does {who} need to get there at {speed} km per hour?",
            f"{who} moves at {speed} km per hour. How many minutes does the way of {show(km)} km to the {place} take?",
        ]
    )
    solution = rng.choice(
        [
            f"In hours the way takes the distance divided by the speed. In minutes that is {show(km)} * 60 / {speed} "
            f"= {minutes} "
            f"minutes.",
            f"One hour has 60 minutes. The time is {show(km)} * 60 / {speed}. Since {show(km)} * 60 = "
            f"{show(km * 60)}, we get "
            f"{show(km * 60)} / {speed} = {minutes} minutes.",
        ]
    )
    return problem(question, solution, minutes, speed=speed, km=km)
