"""AlpacaEval: items, verdicts, and its two versions."""

import pytest
from scripted_judge import judge_of, said

from ultrafuser.evaluation.benchmark import Answer
from ultrafuser.evaluation.benchmarks import BENCHMARKS
from ultrafuser.evaluation.data import load_records
from ultrafuser.evaluation.judges import Comparison
from ultrafuser.evaluation.tools import Tools

RECORD = {
    "id": "alpaca_eval/0",
    "dataset": "koala",
    "instruction": "Name a fruit.",
    "davinci003": "A plum.",
    "gpt4_1106": "Plums, for example.",
}
ONE, TWO = BENCHMARKS["alpaca_eval"], BENCHMARKS["alpaca_eval_2"]


class FixedJudge:
    """Says what it was told to say."""

    name, rates = "fixed", False

    def __init__(self, comparisons):
        self.comparisons, self.cases = comparisons, []

    def compare(self, cases):
        self.cases += cases
        return self.comparisons[: len(cases)]

    def close(self):
        pass


def grade(benchmark, text, comparison):
    judge = FixedJudge([comparison])
    (item,) = benchmark.items([RECORD])
    (verdict,) = benchmark.grade([(item, Answer(texts=(text,)))], Tools(judge=judge))
    return verdict, judge.cases[0]


def test_the_two_versions_differ_in_reference_and_preamble():
    (first,), (second,) = ONE.items([RECORD]), TWO.items([RECORD])
    assert first.turns[0].endswith("\n\nName a fruit.")
    assert second.turns == ("Name a fruit.",)
    assert (first.id, first.group) == ("alpaca_eval/0", "koala")
    assert grade(ONE, "A pear.", Comparison(1.0))[1] == ("Name a fruit.", "A pear.", "A plum.")
    assert grade(TWO, "A pear.", Comparison(1.0))[1] == ("Name a fruit.", "A pear.", "Plums, for example.")
    assert "plain" in TWO.title


@pytest.mark.parametrize("win", [0.0, 0.5, 1.0])
def test_the_score_is_the_judge_s(win):
    verdict, _ = grade(ONE, "A pear.", Comparison(win, "why", {"agreed": True}))
    assert verdict.scores == {"win_rate": win, "answer_characters": 7.0, "orders_agree": 1.0}
    assert (verdict.note, verdict.extracted, verdict.detail["reference_characters"]) == ("why", "A pear.", 7)


def test_no_verdict_is_flagged_and_has_no_agreement():
    verdict, _ = grade(ONE, "A pear.", Comparison(0.5, "none", {"agreed": None, "flagged": True}))
    assert "orders_agree" not in verdict.scores
    assert verdict.detail["flagged"] is True


@pytest.mark.parametrize("texts", [(), ("",)])
def test_an_empty_answer_loses(texts):
    (item,) = ONE.items([RECORD])
    with judge_of(lambda body, number: "Verdict: A") as (judge, server):
        (verdict,) = ONE.grade([(item, Answer(texts=texts, finished=False))], Tools(judge=judge))
    assert (verdict.scores["win_rate"], server.bodies) == (0.0, [])


def test_the_judge_does_not_see_the_preamble():
    (item,) = ONE.items([RECORD])
    with judge_of(lambda body, number: "Verdict: A") as (judge, server):
        ONE.grade([(item, Answer(texts=("A pear.",)))], Tools(judge=judge))
    assert all(item.turns[0] not in said(body) and RECORD["instruction"] in said(body) for body in server.bodies)


def test_without_a_judge_it_says_so():
    (item,) = ONE.items([RECORD])
    with pytest.raises(ValueError, match="needs a judge: --judge URL"):
        ONE.grade([(item, Answer(texts=("x",)))], Tools())


@pytest.mark.parametrize(("benchmark", "field"), [(ONE, "davinci003"), (TWO, "gpt4_1106")])
def test_a_record_of_the_hub_becomes_one_of_ours(benchmark, field):
    record = {"instruction": "Name a fruit.", "output": "A plum.", "generator": "g", "dataset": "koala"}
    adapted = benchmark.source.adapt(record)
    assert adapted[field] == "A plum."
    assert set(benchmark.source.required) <= set(adapted)
    assert adapted["id"] == benchmark.source.adapt(dict(record))["id"]
    assert adapted["id"] != benchmark.source.adapt(record | {"instruction": "Name another."})["id"]


def test_the_sample_has_eight_items_of_our_own():
    records = load_records(ONE.source, "sample").records
    assert len(records) == 8
    assert {record["dataset"] for record in records} == {"ultrafuser_sample"}
    assert all(record["davinci003"] and record["gpt4_1106"] for record in records)
