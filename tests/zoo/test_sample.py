"""The shipped sample holds what its card says, and the scripts that made it are resumable and right."""

from __future__ import annotations

import ast
import json
import random
import re
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ultrafuser.zoo import sample

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.make_sample import arithmetic, ask, checks, math_families
from scripts.make_sample.prompt_files import MODEL_CATEGORIES, asking_order, read_prompts

FILES = [(c, s) for c in ("text", "code", "math") for s in ("train", "heldout")] + [("composite", "heldout")]
MINIMUM = {"train": 150, "heldout": 50}


def answers(record: dict[str, Any]) -> list[str]:
    return [m["content"] for m in record["messages"] if m["role"] == "assistant"]


@pytest.mark.parametrize(("category", "split"), FILES)
def test_records_are_complete(category: str, split: str) -> None:
    records = sample.load(category, split)
    assert len(records) >= (30 if category == "composite" else MINIMUM[split])
    for record in records:
        assert record["category"] == category
        assert record["family"]
        assert record["origin"] in ("model", "generator", "model + generator")
        roles = [message["role"] for message in record["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in record["messages"])
        assert not any(checks.REFUSAL.search(answer) for answer in answers(record))


def test_ids_and_prompts_occur_once() -> None:
    records = [record for where in FILES for record in sample.load(*where)]
    assert len({record["id"] for record in records}) == len(records)
    assert len({record["messages"][0]["content"].lower() for record in records}) == len(records)


@pytest.mark.parametrize("category", ["text", "code", "math"])
def test_families_do_not_cross_the_split(category: str) -> None:
    train, held_out = ({r["family"] for r in sample.load(category, split)} for split in ("train", "heldout"))
    assert len(train) >= 15
    assert len(held_out) >= 7
    assert not train & held_out


def test_the_sample_is_small() -> None:
    assert sum(file.stat().st_size for file in sample.FOLDER.glob("*.*")) < 1_000_000


def test_some_conversations_have_two_turns() -> None:
    assert sum(len(r["messages"]) == 4 for r in sample.load("text", "train")) >= 3


@pytest.mark.parametrize("wrong", [("maths", "train"), ("text", "test"), ("composite", "train")])
def test_wrong_names_list_the_choices(wrong: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"text\.train.*composite\.heldout"):
        sample.load(*wrong)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_maths_answers_follow_from_the_worked_steps(split: str) -> None:
    for record in sample.load("math", split):
        *steps, last = answers(record)[0].splitlines()
        found = re.fullmatch(r"The answer is (-?\d+(?:\.\d+)?(?:/\d+)?)\.", last)
        assert found, last
        worked = "\n".join(steps)
        wrong = [equation for equation, holds in arithmetic.equations(worked) if not holds]
        assert not wrong, record
        assert found.group(1) in re.findall(r"\d+(?:\.\d+)?(?:/\d+)?", worked), record


def test_shipped_maths_is_what_the_generators_make() -> None:
    made = math_families.make_math("heldout", 7, 20261124)
    assert [row["messages"] for row in made] == [record["messages"] for record in sample.load("math", "heldout")]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_python_blocks_parse(split: str) -> None:
    sources = [
        s for r in sample.load("code", split) for a in answers(r) for lang, s in checks.blocks(a) if lang == "python"
    ]
    assert len(sources) > 30
    for source in sources:
        ast.parse(source)


def test_half_of_the_code_was_run() -> None:
    records = sample.load("code", "train") + sample.load("code", "heldout")
    assert sum(bool(record.get("checked")) for record in records) >= len(records) / 2


def test_composite_answers_have_prose_sums_and_code() -> None:
    for record in sample.load("composite", "heldout"):
        prose, worked, code = checks.composite_parts(answers(record)[0])
        assert prose, record
        assert worked, record
        assert all(holds for _, holds in worked), record
        assert len(code) == 1, record
        ast.parse(code[0])


@pytest.mark.parametrize("family", sorted(math_families.FAMILIES))
def test_family_is_verified_on_many_seeds(family: str) -> None:
    made = [math_families.FAMILIES[family](random.Random(seed)) for seed in range(20)]
    for one in made:
        math_families.verify(family, one)
    assert len({one.question for one in made}) >= 15


def test_a_wrong_answer_is_noticed() -> None:
    made = math_families.FAMILIES["profit"](random.Random(1))
    object.__setattr__(made, "answer", made.answer + 1)
    with pytest.raises(ValueError, match="recomputed"):
        math_families.verify("profit", made)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("12 * 3 = 36", True), ("25% of 60 = 15", True), ("6 m * 4 m = 24 square metres", True), ("2/6 = 0.33", True),
        ("$1,200 + 3 = $1,203.", True), ("(60/400) * 100 = 15%", True), ("500 * (1 + 0.04)^2 = 540.80", True),
        ("4 + 8 = 13", False), ("10% of 600 = 61", False), ("2/6 = 0.34", False),
    ],
)  # fmt: skip
def test_equations_are_judged(text: str, holds: bool) -> None:
    assert [verdict for _, verdict in arithmetic.equations(text)] == [holds]


def test_evaluate_refuses_code() -> None:
    with pytest.raises(ValueError, match="not arithmetic"):
        arithmetic.evaluate("__import__('os').getcwd()")
    assert arithmetic.evaluate("-2 ** 2 / 3") == Fraction(-4, 3)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("```python\ndef f(:\n```", "does not parse"), ("```python\ndef f(x):\n    return 1\n```", "AssertionError"),
        ("```python\nwhile True:\n    pass\n```", "still running"), ("no block at all", "no code"),
        ("```python\ndef f(x):\n    return x\n```", ""),
    ],
)  # fmt: skip
def test_code_is_run(answer: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.run_python, "__defaults__", (1.0,))
    assert problem in checks.check_code(answer, "assert f(2) == 2")
    assert bool(problem) == bool(checks.check_code(answer, "assert f(2) == 2"))


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A scripted model that answers every prompt alike and keeps a list of what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][-1]["content"])
            text = " ".join(f"word{number}" for number in range(40))
            reply = {
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"completion_tokens": 40},
            }
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", asked
    running.shutdown()
    running.server_close()


def test_asking_resumes_and_asks_nothing_twice(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    prompts = read_prompts("text")[:12]
    turns = [turn for prompt in prompts for turn in prompt.turns]
    file = tmp_path / "journal.jsonl"
    ask.ask_all(prompts[:5], ask.Client((url,)), ask.Journal(file), {}, attempts=1, slots=4)
    done = len(asked)
    with file.open("a") as torn:
        torn.write('{"key": "half a li')
    counts = ask.ask_all(prompts, ask.Client((url,)), ask.Journal(file), {}, attempts=1, slots=4)
    assert counts["good"] == 12
    assert 0 < done < len(asked)
    assert sorted(asked) == sorted(turns)
    assert ask.ask_all(prompts, ask.Client((url,)), ask.Journal(file), {}, attempts=1)["asked"] == 0
    assert len(ask.Journal(file).answers) == len(turns)


def test_a_rejected_answer_is_asked_again(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, _ = server
    prompt = read_prompts("text")[0]
    journal = ask.Journal(tmp_path / "journal.jsonl")
    counts = ask.ask_all([prompt], ask.Client((url,)), journal, {f"{prompt.key}#0": "dull"}, attempts=2)
    assert counts["good"] == 1
    assert list(journal.answers) == [f"{prompt.key}#0.0", f"{prompt.key}#1.0"]


def test_held_out_is_asked_first_and_prompts_are_ours_once() -> None:
    prompts = asking_order([p for category in MODEL_CATEGORIES for p in read_prompts(category)])
    held_out = [p.split == "heldout" for p in prompts]
    assert held_out == sorted(held_out, reverse=True)
    assert len({p.turns[0].lower() for p in prompts}) == len(prompts) == len({p.key for p in prompts})
    assert {p.category for p in prompts[:8]} == set(MODEL_CATEGORIES)
