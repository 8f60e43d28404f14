"""MT-Bench: two turns, references, ratings that are missing."""

import pytest
from scripted_judge import judge_of, said

from ultrafuser.evaluation.benchmark import Answer
from ultrafuser.evaluation.benchmarks import BENCHMARKS
from ultrafuser.evaluation.data import load_records
from ultrafuser.evaluation.judges import Rating
from ultrafuser.evaluation.tools import Tools

MT = BENCHMARKS["mt_bench"]
RECORD = {"question_id": 1, "category": "math", "turns": ["1 + 1?", "And + 1?"], "gpt4_reference": ["2", "3"]}
ANSWER = Answer(texts=("two", "three"))


class FixedJudge:
    """Rates as it was told to."""

    name = "fixed"

    def __init__(self, *ratings, rates=True):
        self.ratings, self.rates, self.cases = list(ratings), rates, []

    def rate(self, cases):
        self.cases += cases
        return [Rating(value, "said so", {} if value else {"flagged": True}) for value in self.ratings[: len(cases)]]

    def close(self):
        pass


def grade(judge, record=RECORD, answer=ANSWER):
    return MT.grade([(item, answer) for item in MT.items([record])], Tools(judge=judge))[0]


def test_items_have_two_turns_and_a_category():
    (item,) = MT.items([RECORD])
    assert (item.id, item.turns, item.group) == ("mt_bench/1", ("1 + 1?", "And + 1?"), "math")


def test_the_score_is_the_mean_of_both_turns():
    verdict = grade(FixedJudge(8.0, 5.0))
    assert verdict.scores == {"rating": 6.5, "rating_first_turn": 8.0, "rating_second_turn": 5.0}
    assert "flagged" not in verdict.detail


def test_each_turn_is_rated_within_its_conversation():
    judge = FixedJudge(8.0, 5.0)
    grade(judge)
    first, second = judge.cases
    assert first == (("1 + 1?",), ("two",), ("2",))
    assert second == (("1 + 1?", "And + 1?"), ("two", "three"), ("2", "3"))


@pytest.mark.parametrize(
    ("change", "references"),
    [
        ({"category": "writing"}, [(), ()]),
        ({"category": "coding"}, [("2",), ("2", "3")]),
        ({"category": "reasoning", "gpt4_reference": None}, [(), ()]),
        ({"gpt4_reference": None, "reference": ["2", "3"]}, [("2",), ("2", "3")]),
        ({"gpt4_reference": ["2"]}, [("2",), ()]),
        ({"gpt4_reference": ["", "3"]}, [(), ()]),
        ({"gpt4_reference": "N/A"}, [(), ()]),
    ],
)
def test_right_answers_are_shown_where_there_are_some(change, references):
    judge = FixedJudge(8.0, 5.0)
    grade(judge, RECORD | change)
    assert [case.references for case in judge.cases] == references


@pytest.mark.parametrize(
    ("ratings", "scores"),
    [
        ((8.0, None), {"rating_first_turn": 8.0}),
        ((None, 4.0), {"rating_second_turn": 4.0}),
        ((None, None), {}),
    ],
)
def test_a_missing_rating_leaves_no_score_and_is_flagged(ratings, scores):
    verdict = grade(FixedJudge(*ratings))
    assert verdict.scores == scores
    assert verdict.detail["flagged"] is True


@pytest.mark.parametrize("texts", [(), ("",), ("", "")])
def test_missing_answers_are_rated_1(texts):
    with judge_of(lambda body, number: "Rating: 9") as (judge, server):
        verdict = grade(judge, answer=Answer(texts=texts, finished=False))
    assert verdict.scores["rating"] == 1.0
    assert server.bodies == []


def test_verdicts_keep_the_order_of_their_items():
    wanted = [4, 2, 9, 7]
    items = MT.items(RECORD | {"question_id": number} for number in wanted)

    def script(body, number):
        return "Rating: " + said(body).partition("the number is ")[2].split()[0]

    with judge_of(script, concurrency=3) as (judge, _):
        pairs = [(item, Answer(texts=(f"the number is {n}",) * 2)) for item, n in zip(items, wanted, strict=True)]
        verdicts = MT.grade(pairs, Tools(judge=judge))
    assert [verdict.scores["rating"] for verdict in verdicts] == wanted


def test_a_judge_that_only_compares_is_refused():
    with pytest.raises(ValueError, match="a judge that rates, and fixed only compares; give --judge URL"):
        grade(FixedJudge(rates=False))
    with pytest.raises(ValueError, match="no judge is given"):
        grade(None)


def test_a_record_of_the_hub_becomes_one_of_ours():
    record = {"prompt": ["a", "b"], "prompt_id": 7, "category": "math", "reference": ["1", "2"]}
    (item,) = MT.items([MT.source.adapt(record)])
    assert (item.id, item.turns, item.record["gpt4_reference"]) == ("mt_bench/7", ("a", "b"), ["1", "2"])
    assert MT.source.adapt(record | {"reference": []})["gpt4_reference"] is None


def test_the_sample_has_an_item_of_our_own_per_category():
    records = load_records(MT.source, "sample").records
    assert sorted(record["category"] for record in records) == [
        "coding", "extraction", "humanities", "math", "reasoning", "roleplay", "stem", "writing",
    ]  # fmt: skip
    assert all(len(record["turns"]) == 2 for record in records)
    with_reference = {record["category"] for record in records if record["gpt4_reference"]}
    assert with_reference == {"coding", "math", "reasoning"}
