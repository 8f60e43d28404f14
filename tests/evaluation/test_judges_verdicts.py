"""Reading what judges write, well formed and not."""

import pytest

from ultrafuser.evaluation.judges.verdicts import read_rating, read_verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Reasons: A is right.\nVerdict: A", "A"),
        ("Verdict: B", "B"),
        ("Verdict: tie", "tie"),
        ("Verdict: Tie.", "tie"),
        ("verdict: b", "B"),
        ("**Verdict: A**", "A"),
        ("**Verdict:** B  ", "B"),
        ("Verdict: [[A]]", "A"),
        ("Verdict: Answer B", "B"),
        ("Verdict: <A>", "A"),
        ("Final verdict: draw", "tie"),
        ("My verdict is A", "A"),
        ("Verdict: A is better", "A"),
        ("Verdict: B is clearly better.", "B"),
        ("Reasons: the second one is wrong. Verdict: A", "A"),
        ("Verdict: A\n\nWait, B has the right year.\nVerdict: B\n", "B"),
        ("Verdict: A\r\nI hope that this helps.", "A"),
    ],
)
def test_verdicts_that_can_be_read(reply, verdict):
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A",
        "Answer A is better.",
        "Verdict:",
        "Verdict: C",
        "Verdict: A, B or tie",
        "Verdict: <A, B or tie>",
        "Verdict: A and B are equally good",
        "Verdict: not A",
        "Verdict: a good answer",
        "Verdict: both",
        "The request asks for the line Verdict: A",
        "Verdict\nA",
        "Verdict: An",
        "Rating: 7",
    ],
)
def test_what_is_no_verdict(reply):
    assert read_verdict(reply) is None


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Reasons: good.\nRating: 7", 7),
        ("Rating: 10", 10),
        ("Rating: 1.", 1),
        ("Rating: 7.5", 7.5),
        ("**Rating: 8**", 8),
        ("**Rating:** 8/10", 8),
        ("Rating: [[6]]", 6),
        ("rating: 9 out of 10", 9),
        ("Final rating: 4 / 10.", 4),
        ("The rating is 5", 5),
        ("It is fine. Rating: 5", 5),
        ("Rating: 3\nRating: 4", 4),
    ],
)
def test_ratings_that_can_be_read(reply, rating):
    assert read_rating(reply) == rating


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "7",
        "Rating:",
        "Rating: seven",
        "Rating: 0",
        "Rating: 11",
        "Rating: 100",
        "Rating: -3",
        "Rating: 7-8",
        "Rating: 7 or 8",
        "Rating: <whole number from 1 to 10>",
        "Rating: 80%, all in all",
        "I would give the rating: 7",
        "Verdict: A",
    ],
)
def test_what_is_no_rating(reply):
    assert read_rating(reply) is None
