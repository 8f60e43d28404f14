"""TruthfulQA's two settings, worked by hand, and with numbers that overflow."""

from math import exp, inf, log, nan

import pytest

from ultrafuser.evaluation.benchmark import Answer, Likelihood
from ultrafuser.evaluation.benchmarks import BENCHMARKS
from ultrafuser.evaluation.tools import Tools

RECORD = {
    "id": "one",
    "question": "What is a leap year?",
    "category": "Time",
    "mc1": {"choices": ["A year of 366 days.", "A year of 360 days."], "labels": [1, 0]},
    "mc2": {"choices": ["A year of 366 days.", "It has one day more.", "A year of 360 days."], "labels": [1, 1, 0]},
}


def judged(*yes_and_no, record=RECORD):
    benchmark = BENCHMARKS["truthfulqa"]
    (item,) = benchmark.items([record])
    given = tuple(tuple(Likelihood(value, 1) for value in pair) for pair in yes_and_no)
    (verdict,) = benchmark.grade([(item, Answer(likelihoods=given))], Tools())
    return verdict


def weighed(*values, record=RECORD):
    benchmark = BENCHMARKS["truthfulqa_mc"]
    (item,) = benchmark.items([record])
    given = (tuple(Likelihood(value, 7) for value in values),)
    (verdict,) = benchmark.grade([(item, Answer(likelihoods=given))], Tools())
    return verdict


def test_every_option_is_judged_alone():
    (item,) = BENCHMARKS["truthfulqa"].items([RECORD])
    assert len(item.queries) == 3
    assert item.group == "Time"
    for query, choice in zip(item.queries, RECORD["mc2"]["choices"], strict=True):
        assert query.continuations == ("Yes", "No")
        (message,) = query.messages
        assert message["role"] == "user"
        assert RECORD["question"] in message["content"]
        assert [other in message["content"] for other in RECORD["mc2"]["choices"]].count(True) == 1
        assert choice in message["content"]


def test_judged_by_hand():
    """p = 0.8, 0.4, 0.3: MC2 = 1.2 / 1.5, and the first and the last option are judged right."""
    verdict = judged((log(0.4), log(0.1)), (log(0.2), log(0.3)), (log(0.03), log(0.07)))
    assert verdict.detail["p"] == pytest.approx([0.8, 0.4, 0.3])
    assert verdict.scores["mc2"] == pytest.approx(0.8)
    assert verdict.scores["accuracy"] == pytest.approx(2 / 3)


def test_all_right_all_wrong_and_undecided():
    assert judged((0, -inf), (0, -inf), (-inf, 0)).scores == {"mc2": 1.0, "accuracy": 1.0}
    assert judged((-inf, 0), (-inf, 0), (0, -inf)).scores == {"mc2": 0.0, "accuracy": 0.0}
    assert judged((-1, -1), (-1, -1), (-1, -1)).scores == {"mc2": pytest.approx(2 / 3), "accuracy": 0.0}


def test_judgements_far_below_what_a_float_holds():
    """p about e-1000 for the true options and e-2000 for the false one: a plain quotient would be 0 / 0."""
    verdict = judged((-1000, 0), (-1000, 0), (-2000, 0))
    assert verdict.scores["mc2"] == pytest.approx(1.0)
    assert verdict.scores["accuracy"] == pytest.approx(1 / 3)
    assert judged((-5000, -5001), (-5000, -5001), (-5001, -5000)).scores["accuracy"] == 1.0


@pytest.mark.parametrize("none", [(), (-inf, -inf), (nan, nan), (nan, -inf)])
def test_an_option_without_a_judgement_counts_as_judged_wrong(none):
    verdict = judged((0, -inf), (0, -inf), none)  # the false option
    assert verdict.scores == {"mc2": pytest.approx(2 / 3), "accuracy": pytest.approx(2 / 3)}
    assert verdict.note == "1 of 3 options without a judgement"
    verdict = judged(none, (0, -inf), (-inf, 0))  # a true one
    assert verdict.scores == {"mc2": 1.0, "accuracy": pytest.approx(2 / 3)}
    assert judged(none, none, none).scores == {"mc2": 0.0, "accuracy": 0.0}


def test_choices_are_asked_once():
    (item,) = BENCHMARKS["truthfulqa_mc"].items([RECORD])
    (query,) = item.queries
    assert query.messages == ({"role": "user", "content": "What is a leap year?"},)
    assert query.continuations == ("A year of 366 days.", "A year of 360 days.", "It has one day more.")
    assert not query.end


def test_weighed_by_hand():
    """Probabilities 0.1, 0.2 (false), 0.3: the false one is likelier than the best answer, MC2 = 0.4 / 0.6."""
    verdict = weighed(log(0.1), log(0.2), log(0.3))
    assert verdict.scores == {"mc2": pytest.approx(2 / 3), "mc1": 0.0}
    assert verdict.extracted == "It has one day more."
    assert weighed(log(0.2), log(0.1), log(0.3)).scores["mc1"] == 1.0


def test_a_tie_is_no_win_and_order_does_not_matter():
    assert weighed(-3, -3, -9).scores["mc1"] == 0.0
    turned = RECORD | {
        "mc1": {"choices": RECORD["mc1"]["choices"][::-1], "labels": [0, 1]},
        "mc2": {"choices": RECORD["mc2"]["choices"][::-1], "labels": [0, 1, 1]},
    }
    given = {"A year of 366 days.": -4.0, "A year of 360 days.": -5.0, "It has one day more.": -6.0}
    (item,) = BENCHMARKS["truthfulqa_mc"].items([turned])
    values = [given[choice] for choice in item.queries[0].continuations]
    assert weighed(*values, record=turned).scores == pytest.approx(weighed(-4, -5, -6).scores)


def test_weighed_by_the_plain_formula():
    """Likelihoods made to sum to one, summed over the true choices: what lm-evaluation-harness 0.4.13 computes."""
    first, false, second = exp(-12.0), exp(-11.0), exp(-14.5)
    expected = (first + second) / (first + false + second)
    assert weighed(-12.0, -11.0, -14.5).scores["mc2"] == pytest.approx(expected)


def test_likelihoods_far_below_what_a_float_holds():
    verdict = weighed(-2000, -2001, -3000)
    assert verdict.scores == {"mc2": pytest.approx(1 / (1 + exp(-1))), "mc1": 1.0}
    assert weighed(-inf, -2000, -inf).scores == {"mc2": 0.0, "mc1": 0.0}
    assert weighed(nan, nan, nan).scores == {"mc2": 0.0, "mc1": 0.0}
    assert weighed(-inf, -inf, -inf).extracted is None


def test_too_few_likelihoods_score_nothing():
    verdict = weighed(-1.0)
    assert verdict.scores == {"mc2": 0.0, "mc1": 0.0}
    assert verdict.note == "1 likelihoods for 3 choices"


@pytest.mark.parametrize("name", ["truthfulqa", "truthfulqa_mc"])
@pytest.mark.parametrize(
    "broken", [None, {"choices": ["a"]}, {"choices": ["a"], "labels": [1, 0]}, {"choices": ["a"], "labels": [0]}]
)
def test_a_broken_record_is_named(name, broken):
    with pytest.raises(ValueError, match="record one: mc2: must hold `choices` and as many `labels`"):
        BENCHMARKS[name].items([RECORD | {"mc2": broken}])
