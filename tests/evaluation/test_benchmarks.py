"""What holds for every row of the table, tried on the sample items; a new benchmark is covered by its row.

And what holds for those of this package that are read from the Hub in another form.
"""

import copy
import json

import pytest

from ultrafuser.evaluation.benchmark import Answer, Likelihood, Needs
from ultrafuser.evaluation.benchmarks import BENCHMARKS
from ultrafuser.evaluation.data import SAMPLE, load_records
from ultrafuser.evaluation.judges import Comparison, Rating
from ultrafuser.evaluation.tools import Tools

EVERY = pytest.mark.parametrize("name", BENCHMARKS)
CONVERSATIONS = [  # held-out loss has files of its own, by domain, and so no sample
    {
        "id": f"{domain}/{i}",
        "domain": domain,
        "instruction": f"Count to {i}.",
        "output": " ".join(map(str, range(i + 1))),
    }
    for domain in ("text", "code")
    for i in range(2)
]
WORST = {"loss": float("inf"), "mt_bench": 1.0}  # elsewhere 0
RIGHT = {  # a right answer made of a record
    "gsm8k": lambda record: f"{record['solution']}\n#### {record['answer']}",
    "math": lambda record: record["solution"],
    "svamp": lambda record: f"The answer is {record['answer']}.",
    "sat_math": lambda record: record["solution"],
    "aqua": lambda record: record["rationale"],
}


class HarshJudge:
    """Prefers every reference and rates everything 1."""

    name = "harsh"
    rates = True

    def compare(self, cases):
        return [Comparison(0.0) for _ in cases]

    def rate(self, cases):
        return [Rating(1.0) for _ in cases]

    def describe(self):
        return {}

    def close(self):
        pass


@pytest.fixture(scope="module")
def tools():
    with Tools(judge=HarshJudge()) as made:
        yield made


def records_of(name):
    return CONVERSATIONS if name == "loss" else load_records(BENCHMARKS[name].source, SAMPLE).records


def graded(name, answers, tools, *, first=None):
    """Verdicts of one answer per item; benchmarks of code are skipped where nothing isolates it."""
    benchmark = BENCHMARKS[name]
    if "sandbox" in benchmark.uses:
        try:
            assert tools.sandbox
        except ValueError as error:
            pytest.skip(str(error))
    items = benchmark.items(records_of(name)[:first])
    verdicts = benchmark.grade([(item, answers(item)) for item in items], tools)
    assert len(verdicts) == len(items)
    return verdicts


@EVERY
def test_row(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name
    assert name.replace("_", "").isalnum()
    assert name == name.lower()
    assert [other.title for other in BENCHMARKS.values()].count(benchmark.title) == 1
    assert benchmark.domain in ("text", "code", "math", "chat")
    assert benchmark.metric
    assert benchmark.reference
    assert isinstance(benchmark.needs, Needs)
    assert set(benchmark.uses) <= {"sandbox", "judge", "rating"}
    assert benchmark.max_new_tokens > 0
    assert type(benchmark).__doc__
    if benchmark.source.hub_id is not None:
        assert benchmark.source.hub_id.count("/") == 1
        assert benchmark.source.licence


@EVERY
def test_sample_has_the_fields_that_are_required(name):
    records = records_of(name)
    assert len(records) >= 4
    assert all(field in record for record in records for field in BENCHMARKS[name].source.required)


@EVERY
def test_items(name):
    """Unique ids that do not depend on how many records there are; turns or queries; the records are left alone."""
    benchmark, records = BENCHMARKS[name], records_of(name)
    before = copy.deepcopy(records)
    items = benchmark.items(records)
    assert records == before
    assert items
    assert len({item.id for item in items}) == len(items)
    assert [item.id for item in benchmark.items(records[:3])] == [item.id for item in items][:3]
    assert benchmark.items(iter(records)) == items
    assert benchmark.items([]) == []
    for item in items:
        assert isinstance(item.id, str)
        assert item.group is None or isinstance(item.group, str)
        assert bool(item.turns) != bool(item.queries)
        assert bool(item.queries) == (benchmark.needs is not Needs.ANSWERS)
        assert all(isinstance(turn, str) and turn.strip() for turn in item.turns)
        assert all(query.messages[-1]["role"] == "user" and query.continuations for query in item.queries)
        json.dumps(dict(item.record))


@EVERY
def test_chain_of_thought(name):
    benchmark, records = BENCHMARKS[name], records_of(name)
    if not benchmark.has_chain_of_thought:
        pytest.skip("has no such variant")
    plain, thinking = benchmark.items(records), benchmark.items(records, chain_of_thought=True)
    for item, other in zip(plain, thinking, strict=True):
        assert other.id == item.id
        assert other.turns == (f"{item.turns[0]}\nLet's think step by step.",)


EMPTY = {
    "nothing": lambda item: Answer(),
    "empty texts": lambda item: Answer(texts=("",) * len(item.turns), likelihoods=((),) * len(item.queries)),
    "blanks": lambda item: Answer(texts=(" \n\t",) * len(item.turns)),
    "cut off": lambda item: Answer(texts=("",) * len(item.turns), finished=False),
}


@EVERY
@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_answer_gets_the_worst_score(name, kind, tools):
    benchmark = BENCHMARKS[name]
    for verdict in graded(name, EMPTY[kind], tools):
        assert verdict.scores[benchmark.metric] == WORST.get(name, 0.0)
        assert all(isinstance(score, float) for score in verdict.scores.values())
        assert verdict.extracted is None or isinstance(verdict.extracted, str)
        json.dumps(dict(verdict.detail))


ODD = ("\x00\x1b[2J\ud800", "```python\n" * 50, "\\boxed{" * 50, "$" * 99, "(" * 200, "<<" * 99, "None\n" * 99)


@EVERY
def test_an_odd_answer_is_not_an_exception(name, tools):
    benchmark = BENCHMARKS[name]
    text = "\n".join(ODD)
    odd = [Likelihood(float("nan"), 1), Likelihood(float("-inf"), 3), Likelihood(0.0, 0)]

    def answer(item):
        likelihoods = tuple(
            tuple(odd[place % 3] for place in range(len(query.continuations))) for query in item.queries
        )
        return Answer(texts=(text,) * len(item.turns), likelihoods=likelihoods)

    for verdict in graded(name, answer, tools, first=2):
        assert benchmark.metric in verdict.scores


@EVERY
def test_nothing_to_grade(name, tools):
    assert BENCHMARKS[name].grade([], tools) == []


@pytest.mark.parametrize("name", RIGHT)
def test_reference_solutions_are_right_and_each_others_are_not(name, tools):
    assert [v.scores["accuracy"] for v in graded(name, lambda item: Answer((RIGHT[name](item.record),)), tools)] == [
        1.0
    ] * 8
    records = records_of(name)
    following = {r["id"]: other for r, other in zip(records, [*records[1:], records[0]], strict=True)}
    verdicts = graded(name, lambda item: Answer((RIGHT[name](following[item.record["id"]]),)), tools)
    key = "correct" if "correct" in records[0] else "answer"
    expected = [float(following[record["id"]][key] == record[key]) for record in records]
    assert [verdict.scores["accuracy"] for verdict in verdicts] == expected
    assert all(verdict.detail["reference"] for verdict in verdicts)


def test_a_wrong_answer_that_was_cut_off_says_so(tools):
    cut = graded("gsm8k", lambda item: Answer(("First we add 3 and 0.5",), finished=False), tools)
    assert {verdict.note.split(";")[0] for verdict in cut} == {"cut off by the length limit"}


def test_perfect_judgement_and_likelihoods(tools):
    """A model that is certain of the truth scores 1 in both settings of TruthfulQA."""

    def judging(item):
        labels = item.record["mc2"]["labels"]
        return Answer(
            likelihoods=tuple((Likelihood(-0.01, 1), Likelihood(-9.0, 1))[:: 1 if label else -1] for label in labels)
        )

    def knowing(item):
        true = {c for c, label in zip(*item.record["mc2"].values(), strict=True) if label}
        values = [-5.0 if choice in true else -90.0 for choice in item.queries[0].continuations]
        return Answer(likelihoods=(tuple(Likelihood(value, 4) for value in values),))

    assert all(v.scores["mc2"] > 0.99 and v.scores["accuracy"] == 1.0 for v in graded("truthfulqa", judging, tools))
    assert all(v.scores["mc2"] > 0.99 and v.scores["mc1"] == 1.0 for v in graded("truthfulqa_mc", knowing, tools))


def test_prompts_of_mathematics():
    first = {name: BENCHMARKS[name].items(records_of(name))[0].turns[0] for name in RIGHT}
    assert first["gsm8k"] == records_of("gsm8k")[0]["question"]
    assert first["math"].endswith("for $x$.\n\nWrite the final answer in \\boxed{}.")
    assert "the afternoon. He sold 73 of those from the morning. How many rolls" in first["svamp"]  # a stop is added
    assert BENCHMARKS["svamp"].items(records_of("svamp"))[2].turns[0].count("..") == 0
    assert "\n(A) $5$\n(B) $11$\n(C) $20$\n(D) $44$\n\nAnswer with the letter" in first["sat_math"]
    assert "\n(A) 10%\n(B) 15%\n" in first["aqua"]


HUB = {  # records as the Hub has them, made up
    "gsm8k": {"question": "How many?", "answer": "He has 1000 + 234 = 1234.\n#### 1,234"},
    "math": {
        "problem": "What is $1+1$?",
        "solution": "It is $\\boxed{2}$.",
        "answer": "2",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/1.json",
    },
    "svamp": {
        "ID": "chal-0",
        "Body": "He has 7 pens",
        "Question": "How many pens has he?",
        "Equation": "7.0",
        "Answer": "7.0",
        "Type": "Addition",
        "question_concat": "He has 7 pens. How many pens has he?",
    },
    "aqua": {"question": "What is half of 8?", "options": ["A)3", "B)4"], "rationale": "8 / 2 = 4", "correct": "B"},
    "sat_math": {
        "query": "Q: What is half of 8? Answer Choices: (A)3 (B)4 (C)5 (D)6\nA: Among A through D, the answer is",
        "choices": ["(A)3", "(B)4", "(C)5", "(D)6"],
        "gold": [1],
    },
    "truthfulqa": {
        "question": "What is a leap year?",
        "mc1_targets": {"choices": ["366 days.", "360 days."], "labels": [1, 0]},
        "mc2_targets": {"choices": ["366 days.", "360 days."], "labels": [1, 0]},
    },
}


@pytest.mark.parametrize("name", HUB)
def test_records_of_the_hub(name):
    benchmark = BENCHMARKS[name]
    record = benchmark.source.adapt(HUB[name])
    assert all(field in record for field in benchmark.source.required)
    first, second = benchmark.items([record, dict(record) | ({"id": "another"} if "id" in record else {})])
    assert first.id != second.id
    if name == "gsm8k":
        assert record["answer"] == "1234"
        assert record["solution"] == "He has 1000 + 234 = 1234."
    if name == "svamp":
        assert benchmark.right_answer(record) == "7"
    if name == "sat_math":
        assert record["question"] == "What is half of 8?"
        assert benchmark.right_answer(record) == "B"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("svamp", {"answer": "seven"}, "svamp: record sample/svamp/1: ValueError: could not convert"),
        ("sat_math", {"correct": "E"}, "record sample/sat-math/1: ValueError: correct: 'E' is not one of A, B, C, D"),
        ("aqua", {"options": None}, "aqua: record sample/aqua/1: TypeError"),
    ],
)
def test_a_broken_record_is_named(name, change, message):
    record = records_of(name)[0]
    with pytest.raises(ValueError, match=message):
        BENCHMARKS[name].items([dict(record) | change])


def test_repeated_ids_are_refused():
    records = records_of("gsm8k")
    with pytest.raises(ValueError, match="1 ids stand in the data more than once, first 'sample/gsm8k/1'"):
        BENCHMARKS["gsm8k"].items([*records, records[0]])
