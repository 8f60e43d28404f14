"""A run: its record, killing and going on, refusals before the first answer."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ultrafuser.evaluation.plan import Options, check, pick
from ultrafuser.evaluation.record import load_run
from ultrafuser.evaluation.runner import evaluate
from ultrafuser.evaluation.tools import Tools

_TOY = Path(__file__).with_name("toy.py")
_SPEC = importlib.util.spec_from_file_location("toy", _TOY)
toy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(toy)


def run(folder, *tasks, subject=None, **more):
    return evaluate(subject or toy.Script(), list(tasks) or [toy.task()], Tools(), folder, **more)


def program(folder, log, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(_TOY), str(folder), "--log", str(log), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def timeless(run):
    return {name: [entry.as_dict() | {"seconds": 0} for entry in rows] for name, rows in run.entries.items()}


def test_a_run_is_a_record(tmp_path):
    found = run(tmp_path / "run", command=["ultrafuser", "eval"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "sums.jsonl").read_text().split("\n")[:-1]]
    assert [row["id"] for row in rows] == [f"sum/{i}" for i in range(23)]
    assert rows[3]["turns"] == ["3 + 2 = ?   "]
    assert rows[3]["prompts"] == {"one": "one: sum/3", "two": "two: sum/3"}
    assert rows[3]["group"] == "odd"
    assert rows[3]["extracted"] == rows[3]["answers"][0]
    assert set(rows[3]["gate_weights"]) == {"one", "two"}
    assert {row["scores"]["accuracy"] for row in rows} == {0.0, 1.0}
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["model"] == "script"
    assert settings["calls"][0]["command"] == ["ultrafuser", "eval"]
    assert {"ultrafuser", "torch", "transformers", "math-verify", "python", "platform"} <= set(
        settings["calls"][0]["versions"]
    )
    about = settings["benchmarks"]["sums"]
    assert (about["metric"], about["items"], about["available"], about["seed"]) == ("accuracy", 23, 23, 0)
    assert about["data"]["sha256"] == f"{23:064d}"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    score = sum(row["scores"]["accuracy"] for row in rows) / 23
    assert summary["benchmarks"]["sums"]["score"] == pytest.approx(score)
    assert summary["benchmarks"]["sums"]["n"] == 23
    low, high = summary["benchmarks"]["sums"]["ci95"]
    assert low < score < high
    assert summary["benchmarks"]["sums"]["seconds"] == pytest.approx(11.5)
    weights = summary["benchmarks"]["sums"]["gate_weights"]
    mean = sum(row["gate_weights"]["one"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows)
    assert weights["one"] == pytest.approx(mean)
    assert found.unfinished == []
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock", "run.json", "summary.json", "sums.jsonl"
    ]  # fmt: skip


def test_killed_anywhere_it_goes_on_and_asks_nothing_twice(tmp_path):
    whole, log = tmp_path / "whole", tmp_path / "log"
    assert program(whole, tmp_path / "other").returncode == 0
    cut = tmp_path / "cut"
    for point, at in (("answer", 7), ("grade", 2), ("journal", 3), ("answer", 1), ("rewrite", 1), ("summary", 1)):
        done = program(cut, log, "--die", point, "--at", at)
        assert done.returncode == -signal.SIGKILL, (point, done.stderr)
        assert load_run(cut).unfinished == ["sums"]
    assert program(cut, log).returncode == 0
    made = Counter(line.split()[0] for line in log.read_text().splitlines())
    twice = [item for item, count in made.items() if count > 1]
    assert len(twice) == 1  # the one whose line was torn: its answer had not reached the disk
    assert len(made) == 23
    assert sum(made.values()) == 24
    assert timeless(load_run(cut)) == timeless(load_run(whole))
    assert (cut / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    assert not (cut / "sums.answers.jsonl").exists()
    calls = load_run(cut).settings["calls"]
    assert len(calls) == 7


def test_samples_have_seeds_of_their_own_and_outlive_a_kill(tmp_path):
    arguments = ("--samples", 3, "--temperature", 0.7)
    log = tmp_path / "log"
    assert program(tmp_path / "cut", log, *arguments, "--die", "grade", "--at", 9).returncode == -signal.SIGKILL
    assert program(tmp_path / "cut", log, *arguments).returncode == 0
    found = run(tmp_path / "whole", toy.task(samples=3, temperature=0.7))
    assert timeless(load_run(tmp_path / "cut")) == timeless(found)
    assert [(entry.id, entry.sample) for entry in found.entries["sums"][:4]] == [
        ("sum/0", 0), ("sum/0", 1), ("sum/0", 2), ("sum/1", 0)
    ]  # fmt: skip
    asked = [line.split() for line in log.read_text().splitlines()]
    assert len(asked) == len({tuple(pair) for pair in asked}) == 69
    assert len({seed for _, seed in asked}) == 3 * 6  # one per sample and batch


def test_answered_but_not_graded_is_only_graded(tmp_path):
    log = tmp_path / "log"
    assert program(tmp_path / "run", log, "--die", "grade", "--at", 1).returncode == -signal.SIGKILL
    assert len(log.read_text().splitlines()) == 4
    assert (tmp_path / "run" / "sums.jsonl").read_bytes() == b""
    done = []

    def stop(progress):
        done.append(progress.done)
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", subject=toy.Script(log), on_progress=stop)
    assert done == [0, 4]
    assert len(log.read_text().splitlines()) == 4


def test_a_finished_run_is_read_and_its_summary_is_the_same_bit_for_bit(tmp_path):
    first = run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    def never():
        raise AssertionError("asked again")

    again = run(tmp_path / "run", subject=toy.Script(before=never))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert again.summary == first.summary
    (tmp_path / "run" / "summary.json").unlink()
    run(tmp_path / "run", subject=toy.Script(before=never))
    assert (tmp_path / "run" / "summary.json").read_bytes() == before["summary.json"]


def test_benchmarks_can_be_added(tmp_path):
    first = run(tmp_path / "run")
    both = run(tmp_path / "run", toy.task(), toy.task(toy.Options2()))
    assert list(both.entries) == ["sums", "options"]
    assert both.entries["sums"] == first.entries["sums"]
    assert both.entries["options"][0].likelihoods[0][1] == [-0.5, 2]
    assert both.entries["options"][0].queries[0]["continuations"] == ["this", "that"]
    assert len(both.settings["calls"]) == 2
    assert list(both.summary) == ["sums", "options"]
    only_new = run(tmp_path / "run", toy.task(toy.Options2()))
    assert list(only_new.entries) == ["sums", "options"]


def test_one_likelihood_will_do_whatever_the_samples():
    both = [toy.task(samples=2, temperature=1.0), toy.task(toy.Options2(), samples=2, temperature=1.0)]
    assert [task.samples for task in both] == [2, 1]
    assert [task.total for task in both] == [46, 23]


@pytest.mark.parametrize(
    ("subject", "options", "count", "message"),
    [
        (toy.Script(weights="b"), {}, 23, r'subject.weights: "a" -> "b"'),
        (None, {"seed": 1}, 23, "sums.seed: 0 -> 1"),
        (None, {"max_new_tokens": 5}, 23, "sums.max_new_tokens: 512 -> 5"),
        (None, {"limit": 4}, 23, "sums.items: 23 -> 4"),
        (None, {"chain_of_thought": True}, 23, "sums.chain_of_thought: false -> true"),
        (None, {"temperature": 0.5}, 23, "sums.temperature: 0.0 -> 0.5"),
        (None, {}, 22, "sums.data.sha256"),
    ],
)
def test_other_settings_are_refused_unless_overwritten(tmp_path, subject, options, count, message):
    run(tmp_path / "run")
    before = (tmp_path / "run" / "sums.jsonl").read_bytes()
    with pytest.raises(ValueError, match="other settings") as error:
        run(tmp_path / "run", toy.task(count=count, **options), subject=subject)
    assert message in str(error.value)
    assert "--overwrite" in str(error.value)
    assert (tmp_path / "run" / "sums.jsonl").read_bytes() == before
    found = run(tmp_path / "run", toy.task(count=count, **options), subject=subject, overwrite=True)
    assert len(found.settings["calls"]) == 1
    assert found.unfinished == []


def test_an_endpoint_may_move_to_another_port(tmp_path):
    class Behind(toy.Script):
        def describe(self):
            return {"kind": "endpoint", "model": "m", "address": self.weights}

    run(tmp_path / "run", subject=Behind(weights="http://localhost:1/v1"))
    found = run(tmp_path / "run", subject=Behind(weights="http://localhost:2/v1"))
    assert found.settings["subject"]["address"] == "http://localhost:1/v1"


def test_smaller_batches_may_finish_a_run(tmp_path):
    log = tmp_path / "log"
    assert program(tmp_path / "run", log, "--die", "answer", "--at", 7).returncode == -signal.SIGKILL
    found = run(tmp_path / "run", toy.task(batch_size=2), subject=toy.Script(log))
    assert len(log.read_text().splitlines()) == 23
    assert [call["batch_size"] for call in found.settings["calls"]] == [4, 2]


def test_overwriting_removes_its_own_files_only(tmp_path):
    run(tmp_path / "run", toy.task(), toy.task(toy.Options2()))
    (tmp_path / "run" / "mine.txt").write_text("keep")
    run(tmp_path / "run", toy.task(seed=2), overwrite=True)
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"
    assert not (tmp_path / "run" / "options.jsonl").exists()


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"holds files \(thesis.tex\), but no evaluation"):
        run(tmp_path / "a", overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        run(tmp_path / "a" / "thesis.tex")


def test_two_calls_do_not_share_a_folder(tmp_path):
    def meddle(progress):
        with pytest.raises(ValueError, match="another evaluation is at work"):
            run(tmp_path / "run")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", on_progress=meddle)


def test_what_is_missing_is_said_before_the_first_answer(tmp_path):
    subject = toy.Script()
    with pytest.raises(ValueError, match="judged: it needs a judge; give --judge URL"):
        run(tmp_path / "run", toy.task(), toy.task(toy.Judged()))
    subject.offers = frozenset()
    with pytest.raises(ValueError, match="sums: it needs written answers, which script does not give"):
        run(tmp_path / "run", subject=subject)
    with pytest.raises(ValueError, match="--cot: none of options"):
        check([toy.task(toy.Options2(), chain_of_thought=True)], toy.Script(), Tools())
    with pytest.raises(ValueError, match="--benchmarks: none"):
        check([], toy.Script(), Tools())
    assert not (tmp_path / "run").exists()


def test_a_judge_that_cannot_rate_is_no_judge_of_ratings():
    class Reward:
        name, rates = "reward", False

    rated = toy.Judged()
    rated.uses = ("judge", "rating")
    with pytest.raises(ValueError, match="judged: it needs a judge that rates answers, which reward does not"):
        check([toy.task(rated)], toy.Script(), Tools(judge=Reward()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 5}, "--samples: 5 answers at temperature 0"),
        ({"samples": 5, "temperature": 0.8, "pass_at": (1, 10)}, "--pass-at: pass@10 needs at least 10 answers"),
        ({"pass_at": (0,)}, "--pass-at: 0"),
        ({"limit": 0}, "--limit: 0 is too small"),
        ({"batch_size": 0}, "--batch-size: 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens: 0"),
        ({"temperature": -1.0}, "--temperature: -1.0"),
        ({"temperature": float("nan")}, "--temperature: nan"),
        ({"top_p": 0.0}, "--top-p: 0.0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError) as error:
        Options(**options)
    assert str(error.value).startswith(message)


def test_pass_at_k_is_summed_up_anew_without_asking(tmp_path):
    first = run(tmp_path / "run", toy.task(samples=4, temperature=1.0))
    again = run(tmp_path / "run", toy.task(samples=4, temperature=1.0, pass_at=(1, 4)))
    assert "pass@4" not in first.summary["sums"]["also"]
    assert again.summary["sums"]["also"]["pass@4"]["score"] >= again.summary["sums"]["score"]
    assert again.entries == first.entries


def test_a_limit_takes_the_same_items_whatever_else_the_file_holds():
    items = toy.task(count=200).items
    twenty = pick(items, 20)
    assert [items.index(item) for item in twenty] == sorted(items.index(item) for item in twenty)
    assert {item.id for item in pick(items, 10)} < {item.id for item in twenty}
    assert pick(items[:150], 300) == items[:150]
    chosen = {item.id for item in twenty} & {item.id for item in items[100:]}
    assert chosen <= {item.id for item in pick(items[100:], 20)}
    assert len(chosen) > 3  # not just the head of the file


def test_batches_hold_like_with_like_longest_first():
    task = toy.task()
    lengths = [[toy.Script().length(item) for item in batch] for batch in task.batches(toy.Script().length)]
    assert [len(batch) for batch in lengths] == [4, 4, 4, 4, 4, 3]
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat, reverse=True)


def test_odd_answers_come_back_as_they_were(tmp_path):
    odd = "line\u2028end \ud83d half \x00 \r\n é"
    run(tmp_path / "run", subject=toy.Script(text=odd))
    assert load_run(tmp_path / "run").entries["sums"][0].answers == [odd]


def test_likes_of_an_item_are_refused():
    twice = [*toy.records(2), *toy.records(2)]
    with pytest.raises(ValueError, match="sums: two items have the id 'sum/0'"):
        toy.make_task(toy.Sums(), toy.Loaded(twice, {}), Options())
    with pytest.raises(ValueError, match="sums: its data is not in the form it needs \\(no field 'question'\\)"):
        toy.make_task(toy.Sums(), toy.Loaded([{"id": "1"}], {"path": "x"}), Options())


def test_progress_says_score_and_tokens(tmp_path):
    seen = []
    run(tmp_path / "run", on_progress=seen.append)
    assert [one.done for one in seen] == [0, 4, 8, 12, 16, 20, 23]
    assert (seen[0].score, seen[0].total, seen[0].tokens) == (None, 23, 0)
    assert seen[-1].score == pytest.approx(load_run(tmp_path / "run").summary["sums"]["score"])
    assert seen[-1].tokens == sum(entry.tokens for entry in load_run(tmp_path / "run").entries["sums"])
    assert seen[-1].answers == 23
