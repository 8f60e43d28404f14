"""The verb `demo`: options, what it prints, what it writes; the run itself is made up here."""

import importlib.util
import json
from pathlib import Path

import pytest
from rich.console import Console

from ultrafuser.cli import main
from ultrafuser.cli.demo_verb import SPARKS, _Lines, coloured, curve_lines
from ultrafuser.demo.run import Progress

_SPEC = importlib.util.spec_from_file_location("made_up", Path(__file__).parents[1] / "demo" / "made_up.py")
made_up_module = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made_up_module)
made_up = made_up_module.made_up


@pytest.fixture
def calls(monkeypatch) -> list:
    """Replaces the run; holds what it was called with."""
    found: list = []

    def run_demo(output, plan, sources, *, overwrite, on_progress):
        found.append((output, plan, overwrite))
        on_progress(Progress("stage1", 1, 4, 3.25))
        on_progress(Progress("stage1", 4, 4, 3.0))
        return (*made_up(), overwrite is False and plan.seed == 9)

    monkeypatch.setattr("ultrafuser.demo.run_demo", run_demo)
    monkeypatch.setattr("ultrafuser.demo.shipped_sources", lambda: None)
    return found


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["demo", *arguments])
    return int(end.value.code or 0)


def test_defaults(calls, capsys) -> None:
    assert run() == 0
    output, plan, overwrite = calls[0]
    assert (output, plan.seed, plan.fast, overwrite) == (Path("runs/demo"), 0, False, False)
    shown = capsys.readouterr().out
    assert "stage 1: the gate learns: 4 of 4, loss 3.000" in shown
    assert "Stop it at any time" in shown
    assert "per-sample oracle" in shown
    assert "1.750" in shown
    assert "ultrafuser chat runs/demo/fused" in shown
    assert "A loop" in shown


def test_options_reach_the_run(calls, tmp_path) -> None:
    assert run("--output", str(tmp_path / "x"), "--seed", "4", "--fast", "--overwrite") == 0
    output, plan, overwrite = calls[0]
    assert (output, plan.seed, plan.fast, overwrite) == (tmp_path / "x", 4, True, True)


def test_json_file_holds_the_result(calls, tmp_path) -> None:
    assert run("--json", str(tmp_path / "numbers.json")) == 0
    assert json.loads((tmp_path / "numbers.json").read_text()) == made_up()[0].model_dump()


def test_json_on_standard_output_is_alone_there(calls, capsys) -> None:
    assert run("--json", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["loss"]["stage2"]["code"] == pytest.approx(1.75)
    assert "held-out loss" in captured.err


def test_a_folder_for_json_is_refused_before_the_run(calls, tmp_path, capsys) -> None:
    assert run("--json", str(tmp_path)) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not calls


def test_a_stored_run_says_how_to_redo_it(calls, capsys) -> None:
    assert run("--seed", "9") == 0
    assert "--overwrite redoes it" in capsys.readouterr().out


def test_errors_are_one_line(calls, monkeypatch, capsys) -> None:
    def refuse(*args, **kwargs):
        raise ValueError("--output: x holds a demo run with seed 0 instead of 3")

    monkeypatch.setattr("ultrafuser.demo.run_demo", refuse)
    assert run() == 2
    assert capsys.readouterr().err.startswith("error: --output: x holds")


def test_log_lines_come_at_quarters() -> None:
    console = Console(record=True, width=100)
    lines = _Lines(console)
    for step in range(101):
        lines(Progress("stage2", step, 100, None))
    assert len(console.export_text().splitlines()) == 5


def test_curve_lines_fall_with_the_loss() -> None:
    _, details = made_up()
    text = curve_lines(details.curves).plain
    line = next(line for line in text.splitlines() if "stage 2" in line)
    blocks = [SPARKS.index(c) for c in line if c in SPARKS]
    assert len(blocks) == 36
    assert blocks[0] > blocks[-1]


def test_coloured_answer_keeps_the_text() -> None:
    result, details = made_up()
    shown = coloured(details.examples[0], result.names).plain
    assert "".join(token.text for token in details.examples[0].tokens) in shown
    assert "<b>now</b>" in shown
