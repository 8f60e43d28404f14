"""Word problems about prices, pay and percentages; every function is one template family."""

from __future__ import annotations

import random
from fractions import Fraction

from .math_problem import GOODS, PLACES, Problem, people, problem, show


def shopping_change(rng: random.Random) -> Problem:
    """Buying two kinds of things and getting change."""
    (who,), (x, y) = people(rng, 1), rng.sample(GOODS, 2)
    a, p, b, q = rng.randint(2, 9), rng.randint(2, 8), rng.randint(2, 9), rng.randint(2, 8)
    cost = a * p + b * q
    note = next(n for n in (50, 100, 200) if n > cost)
    question = rng.choice(
        [
            f"{who} buys {a} {x} at ${p} each and {b} {y} at ${q} each. How much change does {who} get from ${note}?",
            f"At the market, {x} cost ${p} apiece and {y} cost ${q} apiece. {who} takes {a} {x} and {b} {y} and pays "
            f"with "
            f"${note}. How many dollars come back?",
            f"{who} has ${note} and wants {a} {x} for ${p} each and {b} {y} for ${q} each. How much money is left "
            f"afterwards?",
        ]
    )
    solution = rng.choice(
        [
            f"The {x} cost {a} * {p} = {a * p} dollars. The {y} cost {b} * {q} = {b * q} dollars.\n"
            f"Together that is {a * p} + {b * q} = {cost} dollars. So {note} - {cost} = {note - cost} dollars are "
            f"left.",
            f"First find the price of the {x}: {a} * {p} = {a * p}.\nThen the price of the {y}: {b} * {q} = {b * q}.\n"
            f"The total is {a * p} + {b * q} = {cost}.\n{who} keeps {note} - {cost} = {note - cost} dollars.",
        ]
    )
    return problem(question, solution, note - cost, a=a, p=p, b=b, q=q, note=note)


def discount_price(rng: random.Random) -> Problem:
    """Price after a reduction in per cent."""
    (who,), thing = people(rng, 1), rng.choice(["coat", "lamp", "bicycle", "radio", "backpack", "chair", "watch"])
    price, off = rng.randrange(40, 400, 20), rng.choice([5, 10, 15, 20, 25, 30, 40])
    cut = Fraction(price * off, 100)
    question = rng.choice(
        [
            f"A {thing} costs ${price}. In the sale it is {off}% cheaper. What does {who} pay for it in the sale?",
            f"{who} finds a {thing} for ${price} with a sign that says {off}% off. What is the new price in dollars?",
            f"The usual price of a {thing} is ${price}, but {who} has a voucher for {off}% off. How much does {who} "
            f"pay?",
        ]
    )
    solution = rng.choice(
        [
            f"{off}% of {price} is {price} * {off} / 100 = {show(cut)} dollars.\n"
            f"The sale price is {price} - {show(cut)} = {show(price - cut)} dollars.",
            f"The reduction is {price} * {off} / 100 = {show(cut)}. Taking it away gives "
            f"{price} - {show(cut)} = {show(price - cut)}, so {who} pays {show(price - cut)} dollars.",
        ]
    )
    return problem(question, solution, price - cut, price=price, off=off)


def simple_interest(rng: random.Random) -> Problem:
    """Interest that is paid out every year."""
    (who,) = people(rng, 1)
    sum_, rate, years = rng.randrange(200, 3000, 100), rng.randint(2, 8), rng.randint(2, 6)
    yearly = sum_ * rate // 100
    total = sum_ + yearly * years
    question = rng.choice(
        [
            f"{who} puts ${sum_} into an account that pays {rate}% simple interest a year. How much money is there "
            f"after "
            f"{years} years?",
            f"A bank pays {rate}% of the first deposit every year. {who} deposits ${sum_}. What is the balance in "
            f"dollars after "
            f"{years} years?",
            f"{who} lends ${sum_} at {rate}% simple interest per year. How many dollars does {who} get back in total "
            f"after "
            f"{years} years?",
        ]
    )
    solution = (
        f"One year of interest is {sum_} * {rate} / 100 = {yearly} dollars.\n"
        f"In {years} years that makes {years} * {yearly} = {years * yearly} dollars.\n"
        + rng.choice(["Together with the first sum it is", "Adding the money from the start gives"])
        + f" {sum_} + {years * yearly} = {total} dollars."
    )
    return problem(question, solution, total, sum_=sum_, rate=rate, years=years)


def hourly_pay(rng: random.Random) -> Problem:
    """Pay with some hours at a higher rate."""
    (who,), place = people(rng, 1), rng.choice(PLACES)
    hours, wage, extra = rng.randint(20, 40), rng.randrange(10, 26, 2), rng.randint(2, 8)
    more = wage * 3 // 2
    total = hours * wage + extra * more
    question = rng.choice(
        [
            f"{who} works at a {place} for ${wage} an hour. This week {who} worked {hours} normal hours and {extra} "
            f"hours of "
            f"overtime, which pay one and a half times as much. How much did {who} earn?",
            f"At the {place}, an hour of work pays ${wage} and an hour of overtime pays 1.5 times that. How many "
            f"dollars does "
            f"{who} get for {hours} normal hours and {extra} hours of overtime?",
        ]
    )
    solution = (
        f"The normal hours bring {hours} * {wage} = {hours * wage} dollars.\n"
        f"An hour of overtime pays {wage} * 1.5 = {more} dollars, so {extra} of them bring {extra} * {more} = "
        f"{extra * more} dollars.\n"
        + rng.choice(["The pay of the week is", f"In total {who} earned"])
        + f" {hours * wage} + {extra * more} = {total} dollars."
    )
    return problem(question, solution, total, hours=hours, wage=wage, extra=extra)


def percent_of_group(rng: random.Random) -> Problem:
    """A share of a group in per cent, and the rest."""
    place, what = rng.choice(PLACES), rng.choice(["wear glasses", "come by bus", "play an instrument", "have a pet"])
    total, share = rng.randrange(40, 400, 20), rng.randrange(10, 90, 5)
    part = total * share // 100
    question = rng.choice(
        [
            f"Of the {total} people at the {place}, {share}% {what}. How many of them do not?",
            f"There are {total} visitors at the {place} today and {share}% of them {what}. How many visitors do not "
            f"{what}?",
            f"A survey asked {total} people. {share}% of them {what}. How many people are left?",
        ]
    )
    solution = rng.choice(
        [
            f"The number of people who {what} is {total} * {share} / 100 = {part}.\nThe others are {total} - {part} = "
            f"{total - part} people.",
            f"If {share}% {what}, then 100 - {share} = {100 - share} per cent do not.\n"
            f"That is {total} * {100 - share} / 100 = {total - part} people.",
        ]
    )
    return problem(question, solution, total - part, total=total, share=share)


def saving_weeks(rng: random.Random) -> Problem:
    """Weeks of saving until something can be bought."""
    (who,), thing = people(rng, 1), rng.choice(["guitar", "tent", "camera", "skateboard", "telescope", "drum"])
    weekly, weeks, have = rng.randint(4, 18), rng.randint(5, 20), rng.randint(5, 60)
    price = have + weekly * weeks
    question = rng.choice(
        [
            f"{who} wants a {thing} that costs ${price}. {who} already has ${have} and saves ${weekly} every week. "
            f"How many "
            f"weeks will it take?",
            f"A {thing} costs ${price}. With ${have} in the purse and ${weekly} more each week, after how many weeks "
            f"can {who} "
            f"buy it?",
        ]
    )
    solution = (
        f"{who} still needs {price} - {have} = {price - have} dollars.\n"
        + rng.choice([f"With {weekly} dollars a week this takes", "Divide that by the weekly savings:"])
        + f" {price - have} / {weekly} = {weeks}"
        + rng.choice([" weeks.", ", so it takes that many weeks."])
    )
    return problem(question, solution, weeks, price=price, have=have, weekly=weekly)


def profit(rng: random.Random) -> Problem:
    """Selling things for more than they cost."""
    (who,), good = people(rng, 1), rng.choice(GOODS)
    n, cost, gain, stall = rng.randint(12, 60), rng.randint(2, 9), rng.randint(2, 7), rng.randint(5, 20)
    result = n * gain - stall
    question = rng.choice(
        [
            f"{who} buys {n} {good} for ${cost} each and sells all of them for ${cost + gain} each. The stall costs "
            f"${stall}. "
            f"What is the profit?",
            f"To raise money, {who} sells {n} {good} at ${cost + gain} apiece. Each one cost ${cost} to make, and "
            f"the table "
            f"was rented for ${stall}. How many dollars remain as profit?",
        ]
    )
    solution = rng.choice(
        [
            f"Each sale brings {cost + gain} - {cost} = {gain} dollars.\nAll sales bring {n} * {gain} = {n * gain} "
            f"dollars.\n"
            f"After the stall is paid, {n * gain} - {stall} = {result} dollars remain.",
            f"The sales bring in {n} * {cost + gain} = {n * (cost + gain)} dollars. The {good} cost {n} * {cost} = "
            f"{n * cost} "
            f"dollars.\nSo the profit is {n * (cost + gain)} - {n * cost} - {stall} = {result} dollars.",
        ]
    )
    return problem(question, solution, result, n=n, cost=cost, price=cost + gain, stall=stall)


def unit_price(rng: random.Random) -> Problem:
    """Price of some pieces when the price of a pack is known."""
    (who,), good = people(rng, 1), rng.choice(GOODS)
    pack, each, want = rng.randint(3, 12), rng.randint(2, 9), rng.randint(13, 30)
    question = rng.choice(
        [
            f"A pack of {pack} {good} costs ${pack * each}. How much would {who} pay for {want} {good} at the same "
            f"price per "
            f"piece?",
            f"{who} paid ${pack * each} for {pack} {good}. At that rate, what do {want} {good} cost?",
            f"If {pack} {good} cost ${pack * each}, how many dollars do {want} {good} cost?",
        ]
    )
    solution = rng.choice(
        [
            f"One of the {good} costs {pack * each} / {pack} = {each} dollars.\nSo {want} of them cost {want} * "
            f"{each} = "
            f"{want * each} dollars.",
            f"First find the price of one: {pack * each} / {pack} = {each}. Then multiply by the number wanted: "
            f"{each} * {want} = {want * each}.",
        ]
    )
    return problem(question, solution, want * each, pack=pack, paid=pack * each, want=want)


def percent_increase(rng: random.Random) -> Problem:
    """By how many per cent something grew."""
    thing = rng.choice(
        ["number of members of a club", "price of a ticket", "rent of a small shop", "harvest of a farm"]
    )
    old, rate = rng.randrange(20, 300, 20), rng.choice([5, 10, 15, 20, 25, 30, 40, 50])
    new = old + old * rate // 100
    question = rng.choice(
        [
            f"The {thing} rises from {old} to {new}. By how many per cent does it rise?",
            f"Last year the {thing} was {old}. Now it is {new}. What is the increase in per cent?",
        ]
    )
    solution = rng.choice(
        [
            f"The increase is {new} - {old} = {new - old}.\nCompared with the old value this is {new - old} / {old} "
            f"* 100 = "
            f"{rate} per cent.",
            f"It grew by {new} - {old} = {new - old}. Multiply by one hundred and divide by the old value: "
            f"{new - old} * 100 / {old} = {rate}. The increase is {rate} per cent.",
        ]
    )
    return problem(question, solution, rate, old=old, new=new)


def splitting_bill(rng: random.Random) -> Problem:
    """A bill with a tip, shared equally."""
    (who,), friends = people(rng, 1), rng.randint(3, 8)
    tip = rng.choice([10, 20, 25])
    bill = friends * rng.randint(3, 9) * 20
    total = bill + bill * tip // 100
    share = Fraction(total, friends)
    question = rng.choice(
        [
            f"{who} and {friends - 1} friends share a restaurant bill of ${bill}. They add a tip of {tip}% and split "
            f"the total "
            f"equally. How much does each of them pay?",
            f"A dinner for {friends} people costs ${bill}. {who} suggests a {tip}% tip on top. If all pay the same, "
            f"how many "
            f"dollars does each person pay?",
        ]
    )
    solution = (
        f"The tip is {bill} * {tip} / 100 = {bill * tip // 100} dollars.\nThe total is {bill} + {bill * tip // 100} = "
        f"{total} dollars.\n"
        + rng.choice(["Each person pays", f"Shared by {friends} people, that is"])
        + f" {total} / {friends} = {show(share)} dollars."
    )
    return problem(question, solution, share, bill=bill, tip=tip, friends=friends)
