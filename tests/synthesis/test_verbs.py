"""`ultrafuser synth ...` as a user meets it."""

import json
import os
import signal

import pytest
import yaml
from author import author
from typer.testing import CliRunner

COUNTS = {"meta_topics": 2, "sub_topics": 1, "instructions": 2, "batch": 2}


@pytest.fixture
def synth(monkeypatch):
    """`synth(*args) -> result` with exit_code, stdout, stderr."""
    from ultrafuser.cli import build_app

    monkeypatch.setenv("COLUMNS", "120")
    return lambda *args: CliRunner().invoke(build_app(), ["synth", *map(str, args)], prog_name="ultrafuser")


@pytest.fixture
def spec(serve, tmp_path):
    """`spec(script=author, **fields) -> file`."""

    def write(script=author, **fields):
        endpoint = {"base_url": serve(script).url, "input_price": 1.0, "output_price": 2.0}
        data = {"name": "x", "domains": ["text", "math"], "counts": COUNTS, "endpoints": [endpoint], "output": "out"}
        file = tmp_path / "synth.yaml"
        file.write_text(yaml.safe_dump(data | fields), encoding="utf-8")
        return file

    return write


def test_from_nothing_to_conversations(synth, spec, tmp_path):
    file = spec()
    shown = synth("plan", file, "--json", tmp_path / "plan.json")
    assert shown.exit_code == 0
    assert "about 12 conversations" in shown.stdout
    steps = json.loads((tmp_path / "plan.json").read_text())["steps"]
    assert sum(row["requests"] for row in steps) == 2 * (1 + 2 + 2 + 1 + 2 + 6)
    assert not (tmp_path / "out").exists()

    first = synth("run", file)
    assert first.exit_code == 0
    assert "edit it or leave it, then run again; `ultrafuser synth run" in first.stdout
    reviewed = synth("review", file, "--json", tmp_path / "review.json")
    assert "4 kept, 0 removed, 0 edited, 0 added" in reviewed.stdout

    second = synth("run", file, "--json", tmp_path / "run.json")
    assert second.exit_code == 0
    assert "complete; next: ultrafuser synth export" in second.stdout
    assert "responses: 12 answers" in second.stdout
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["stopped"] is None
    assert made["steps"]["responses"]["math"] == {"answered": 6, "kept": 6}

    told = synth("status", file)
    assert f"{made['answered']} requests answered" in told.stdout
    assert "wrote" in synth("export", file, "-o", tmp_path / "data.jsonl").stdout
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert [row["category"] for row in rows] == ["text"] * 6 + ["math"] * 6
    assert "are means of those" in synth("plan", file).stdout


def test_a_cap_ends_with_status_3_and_says_what_to_do(synth, spec):
    result = synth("run", spec(budget={"requests": 5}), "--no-review")
    assert result.exit_code == 3
    assert "budget.requests: 5 requests are answered" in result.stdout
    assert "raise the cap and `ultrafuser synth run" in result.stdout.replace("\n", " ")
    assert "budget.requests: the cap of 5 will stop it" in synth("plan", spec(budget={"requests": 5})).stdout


def test_an_interrupt_ends_well(synth, spec):
    def script(body, number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return author(body)

    file = spec(script)
    result = synth("run", file, "--no-review")
    assert result.exit_code == 130
    assert "stopping: requests under way may end" in result.stdout
    assert synth("run", file, "--no-review").exit_code == 0


def test_init_writes_a_spec_that_can_be_planned(synth, tmp_path):
    file = tmp_path / "mine.yaml"
    assert synth("init", file).exit_code == 0
    assert "about 180 conversations" in synth("plan", file).stdout
    again = synth("init", file)
    assert again.exit_code == 2 or isinstance(again.exception, ValueError)


@pytest.mark.parametrize("verb", ["status", "review", "export"])
def test_nothing_there_is_one_line(synth, spec, verb, tmp_path):
    result = synth(verb, spec())
    assert result.exit_code == 2
    assert "holds no journal; `ultrafuser synth run` begins one" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"filters": [{"name": "no-such"}]}, "filters[0].name: 'no-such'"),
        ({"domains": ["txt"]}, "'txt' is not one of code, math, text; did you mean 'text'?"),
        ({"endpoints": [{"base_url": "localhost"}]}, "base_url: 'localhost' is not an http or https address"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(synth, spec, fields, words):
    result = synth("run", spec(**fields))
    assert result.exit_code == 2
    assert words in result.stderr.replace("\n", " ")
