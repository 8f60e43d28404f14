"""The published reference solutions score what they must, where the benchmarks' data is at hand."""

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from ultrafuser.evaluation.benchmark import Answer
from ultrafuser.evaluation.benchmarks import BENCHMARKS
from ultrafuser.evaluation.tools import Tools

ROOT = Path(os.environ.get("ULTRAFUSER_SHARED_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
BENCH = ROOT / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason=f"no benchmark data in {BENCH}")

REFERENCES = {  # the answer made of a record, and the share of them that must be right
    "gsm8k": (lambda record: f"{record['solution']}\n#### {record['answer']}", 0.99),
    "math": (lambda record: record["solution"], 0.99),
    "svamp": (lambda record: f"The answer is {record['answer']}.", 1.0),
    "sat_math": (lambda record: f"The answer is ({record['correct']}).", 1.0),
    "aqua": (lambda record: f"The answer is ({record['correct']}).", 1.0),
}


def read(name):
    for file in BENCH.glob(f"{BENCHMARKS[name].source.file}.jsonl*"):
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    raise AssertionError(f"no file of {name} in {BENCH}")


@pytest.fixture(scope="module")
def tools():
    with Tools() as made:
        yield made


def share(name, records, answer, tools):
    benchmark = BENCHMARKS[name]
    pairs = [(item, Answer(texts=(answer(item.record),))) for item in benchmark.items(records)]
    verdicts = benchmark.grade(pairs, tools)
    return sum(verdict.scores["accuracy"] for verdict in verdicts) / len(verdicts)


@pytest.mark.parametrize("name", REFERENCES)
def test_sixty_references(name, tools):
    records = read(name)
    answer, least = REFERENCES[name]
    assert share(name, records[:: max(len(records) // 60, 1)], answer, tools) >= least


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_references_of_other_items_are_wrong(name, tools):
    """A check that calls everything right would pass the test above."""
    records = read(name)[:61]
    answers = {id(record): REFERENCES[name][0](other) for record, other in pairwise(records)}
    assert share(name, records[:60], lambda record: answers[id(record)], tools) < 0.15


def test_written_solutions_of_multiple_choice(tools):
    """Solutions as people write them: AGIEval's name the letter at once, AQuA's mostly at the end."""
    assert share("sat_math", read("sat_math"), lambda record: record["solution"], tools) == 1.0
    assert share("aqua", read("aqua"), lambda record: record["rationale"], tools) > 0.8


def test_gsm8k_solutions_without_their_last_line(tools):
    """The last number is not always the answer ("... in the last 6 hours"): about 98 of 100."""
    assert share("gsm8k", read("gsm8k")[:120], lambda record: record["solution"], tools) > 0.95


@pytest.mark.parametrize("name", ["truthfulqa", "truthfulqa_mc"])
def test_truthfulqa_is_read_whole(name):
    items = BENCHMARKS[name].items(read(name))
    assert len(items) == 409
    assert len({item.group for item in items}) > 30
