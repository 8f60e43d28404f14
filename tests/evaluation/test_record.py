"""A run read from its folder, and kind errors for what is none."""

import importlib.util
import json
from dataclasses import fields
from pathlib import Path

import pytest

from ultrafuser.evaluation.benchmark import Answer, Likelihood
from ultrafuser.evaluation.files import Log, read_json, read_lines
from ultrafuser.evaluation.record import Entry, answer_from_dict, answer_to_dict, load_run
from ultrafuser.evaluation.runner import evaluate
from ultrafuser.evaluation.tools import Tools
from ultrafuser.files import write_json

_SPEC = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(toy)


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    evaluate(toy.Script(), [toy.task(count=5)], Tools(), tmp_path / "run")
    return tmp_path / "run"


def test_load_run_gives_back_what_was_written(folder):
    run = load_run(folder)
    assert run.name == "run"
    assert run.settings["benchmarks"]["sums"]["higher_is_better"] is True
    assert [entry.id for entry in run.entries["sums"]] == [f"sum/{i}" for i in range(5)]
    rows = [json.loads(line) for line in (folder / "sums.jsonl").read_text().split("\n")[:-1]]
    assert [entry.as_dict() for entry in run.entries["sums"]] == rows
    assert set(rows[0]) == {one.name for one in fields(Entry)}
    assert load_run(str(folder)).entries == run.entries


def test_answers_survive_the_journal():
    answer = Answer(("a", "b"), ((Likelihood(-1.5, 3),),), {"x": "prompt"}, {"x": 1.0}, 7, False, 0.25)
    assert answer_from_dict(json.loads(json.dumps(answer_to_dict(answer)))) == answer
    assert answer_from_dict(json.loads(json.dumps(answer_to_dict(Answer())))) == Answer()


def test_what_has_no_probability_is_null_in_the_file_and_impossible_again(tmp_path):
    answer = Answer(likelihoods=((Likelihood(float("-inf"), 1), Likelihood(-0.5, 1)),))
    with Log(tmp_path / "log.jsonl") as log:
        log.append([answer_to_dict(answer)])
    ((_, row),) = read_lines(tmp_path / "log.jsonl", torn=False)
    assert row["likelihoods"] == [[[None, 1], [-0.5, 1]]]
    assert answer_from_dict(row) == answer


def test_folders_that_are_no_run(tmp_path, folder):
    with pytest.raises(ValueError, match="does not exist; name the folder that `ultrafuser eval` printed"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no run.json, so it holds no evaluation; did you mean '.*run'\?"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        load_run(folder / "run.json")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"steps": 3}')
    with pytest.raises(ValueError, match="no record of an evaluation"):
        load_run(tmp_path / "other")
    (tmp_path / "other" / "run.json").write_text('{"benchmarks": {}, "format": 99}')
    with pytest.raises(ValueError, match="format 99, and this version reads 1"):
        load_run(tmp_path / "other")
    (tmp_path / "other" / "run.json").write_text("[1")
    with pytest.raises(ValueError, match=r"run.json is not valid JSON"):
        load_run(tmp_path / "other")


def test_a_line_that_is_no_entry(folder):
    file = folder / "sums.jsonl"
    lines = [f"{line}\n" for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    file.write_text("".join([lines[0], "{oops\n", *lines[1:]]))
    with pytest.raises(ValueError, match=r"sums.jsonl, line 2: not valid JSON"):
        load_run(folder)
    file.write_text("".join([*lines, '{"no": "id"}\n']))
    with pytest.raises(ValueError, match=r"line 6: no entry of a run"):
        load_run(folder)
    file.write_text("".join([*lines, '{"id": "x", "colour": 1}\n']))
    with pytest.raises(ValueError, match=r"line 6: unknown field 'colour'; .* another version"):
        load_run(folder)
    file.write_text("".join([*lines, lines[0]]))
    with pytest.raises(ValueError, match=r"item 'sum/0', sample 0 stands there twice"):
        load_run(folder)


def test_a_torn_line_is_forgiven_only_in_an_unfinished_run(folder):
    file = folder / "sums.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"line 5: the line is cut off"):
        load_run(folder)
    (folder / "summary.json").unlink()
    run = load_run(folder)
    assert len(run.entries["sums"]) == 4
    assert run.unfinished == ["sums"]
    again = evaluate(toy.Script(), [toy.task(count=5)], Tools(), folder)
    assert len(again.entries["sums"]) == 5


def test_a_log_cuts_off_a_torn_line_of_any_length(tmp_path):
    file = tmp_path / "log.jsonl"
    with Log(file) as log:
        log.append([{"n": 1}, {"n": 2}])
    with file.open("ab") as torn:
        torn.write(b'{"n": "' + b"x" * 200_000)
    assert [row for _, row in read_lines(file, torn=True)] == [{"n": 1}, {"n": 2}]
    with Log(file) as log:
        log.append([{"n": 3}])
    assert [row["n"] for _, row in read_lines(file, torn=False)] == [1, 2, 3]
    file.write_bytes(b"half")
    with Log(file) as log:
        log.append([{"n": 4}])
    assert file.read_bytes() == b'{"n": 4}\n'


def test_json_is_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.json"
    write_json(file, {"a": float("nan"), "b": [float("inf"), 1], "c": "\ud83d"})
    assert read_json(file) == {"a": None, "b": [None, 1], "c": "\ud83d"}
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert read_json(file)["b"] == [None, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    file.write_text("[1]")
    with pytest.raises(ValueError, match="holds a list"):
        read_json(file)
