"""Word problems about floors, fields, boxes and units; every function is one template family."""

from __future__ import annotations

import random

from .math_problem import NAMES, Problem, problem


def room_tiles(rng: random.Random) -> Problem:
    """Number of tiles on a floor."""
    tile = rng.choice([20, 25, 40, 50])
    across, along = rng.randint(4, 16), rng.randint(4, 16)
    room = rng.choice(["kitchen", "hall", "bathroom", "balcony", "cellar"])
    question = rng.choice(
        [
            f"The floor of a {room} is {across * tile} cm wide and {along * tile} cm long. How many square tiles "
            f"with sides of "
            f"{tile} cm cover it?",
            f"Square tiles of {tile} cm by {tile} cm are laid in a {room} of {across * tile} cm by {along * tile} "
            f"cm. How many "
            f"tiles are needed?",
        ]
    )
    solution = (
        f"Across the width fit {across * tile} / {tile} = {across} tiles, along the length {along * tile} / {tile} = "
        f"{along} "
        f"tiles.\n"
        + rng.choice(["The floor takes", "Altogether that is"])
        + f" {across} * {along} = {across * along} tiles."
    )
    return problem(question, solution, across * along, width=across * tile, length=along * tile, tile=tile)


def fence_length(rng: random.Random) -> Problem:
    """Width of a rectangle from its perimeter, then the area."""
    place = rng.choice(["garden", "meadow", "playground", "field", "yard"])
    width, length = rng.randint(4, 20), rng.randint(21, 45)
    around, area = 2 * (width + length), width * length
    question = rng.choice(
        [
            f"A fence of {around} metres goes around a rectangular {place} that is {length} metres long. What is the "
            f"area of the "
            f"{place} in square metres?",
            f"The perimeter of a rectangular {place} is {around} metres and its length is {length} metres. Find its "
            f"area in "
            f"square metres.",
        ]
    )
    solution = (
        f"Length and width together are half of the perimeter: {around} / 2 = {around // 2} metres.\n"
        f"The width is {around // 2} - {length} = {width} metres.\n"
        + rng.choice(["The area is", "Multiply both sides to get the area:"])
        + f" {length} * {width} = {area} square metres."
    )
    return problem(question, solution, area, around=around, length=length)


def unit_conversion(rng: random.Random) -> Problem:
    """Filling small vessels from a large amount in another unit."""
    big, small, factor, thing = rng.choice(
        [
            ("litres", "millilitres", 1000, "glasses"),
            ("kilograms", "grams", 1000, "bags"),
            ("metres", "centimetres", 100, "ribbons"),
            ("hours", "minutes", 60, "lessons"),
        ]
    )
    size = rng.choice([s for s in (20, 25, 40, 50, 125, 200, 250) if s < factor])
    whole = rng.choice([n for n in range(2, 31) if n * factor % size == 0])
    count = whole * factor // size
    question = rng.choice(
        [
            f"How many {thing} of {size} {small} each can be made from {whole} {big}?",
            f"There are {whole} {big} to be divided into {thing} of {size} {small}. How many {thing} does that give?",
        ]
    )
    solution = (
        f"One {big[:-1]} has {factor} {small}, so {whole} {big} are {whole} * {factor} = {whole * factor} {small}.\n"
        + rng.choice(["That gives", "Divide by the size of one:"])
        + f" {whole * factor} / {size} = {count}"
        + rng.choice([f" {thing}.", "."])
    )
    return problem(question, solution, count, whole=whole, factor=factor, size=size)


def box_filling(rng: random.Random) -> Problem:
    """Small cubes in a box, or water in a tank."""
    a, b, c, side = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 9), rng.choice([2, 3, 5])
    who = rng.choice(NAMES)
    question = rng.choice(
        [
            f"A box is {a * side} cm long, {b * side} cm wide and {c * side} cm high. How many cubes with edges of "
            f"{side} cm fit "
            f"into it?",
            f"{who} fills a box of {a * side} by {b * side} by {c * side} cm with wooden cubes of edge {side} cm. "
            f"How many cubes "
            f"are needed to fill it completely?",
        ]
    )
    solution = (
        f"Along the three edges fit {a * side} / {side} = {a}, {b * side} / {side} = {b} and {c * side} / {side} = "
        f"{c} cubes.\n"
        f"One layer has {a} * {b} = {a * b} cubes. "
        + rng.choice(["All layers have", f"There are {c} layers, which makes"])
        + f" {a * b} * {c} = {a * b * c} cubes."
    )
    return problem(question, solution, a * b * c, edges=[a * side, b * side, c * side], side=side)
