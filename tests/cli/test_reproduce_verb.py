"""The verb `reproduce`: options, plan, what it prints and how it ends; the runs themselves are tested elsewhere."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from ultrafuser.cli.reproduce_verb import Lines, duration, grid
from ultrafuser.reproduce.cells import Cell
from ultrafuser.reproduce.report import Report
from ultrafuser.reproduce.schedule import Event
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table


def table() -> Table:
    rows = [
        Row("a", "model a", {"text": Cell(1.25, 0.5, 2)}, ours=True),
        Row("b", "model b", {"text": Cell(1.0, 0.0, 1)}, group="others"),
        Row("c", "model c", missing="it failed"),
    ]
    return Table(
        "Table 0: made up",
        "nothing",
        [Column("text", "text", "nats", "low")],
        rows,
        findings=[Finding("no", "b wins.")],
    )


@pytest.fixture
def calls(monkeypatch) -> list:
    """Replaces the work; holds what it was asked."""
    found: list = []

    def reproduce(folder, plan, *, workers, on_event):
        found.append((folder, plan, workers))
        on_event(Event("started", "specialists", 0, 2))
        failures = {"fused/seed-0": "no memory"} if len(plan.seeds) == 2 else {}
        return Report(plan, {"table0": table()}, failures, {})

    monkeypatch.setattr("ultrafuser.reproduce.reproduce", reproduce)
    return found


def test_it_prints_tables_and_writes_numbers(run, calls, tmp_path) -> None:
    out = tmp_path / "numbers.json"
    result = run(
        "reproduce", "--scale", "smoke", "--only", "table3", "-o", tmp_path / "x", "--workers", "1", "--json", out
    )
    assert result.exit_code == 0, result.output
    folder, plan, workers = calls[0]
    assert (folder, plan.tables, plan.seeds, workers) == (tmp_path / "x", ["table3"], [0], 1)
    assert "1.250 ± 0.500" in result.output
    assert "✗ b wins." in result.output
    assert "[0 of 2] specialists: begins" in result.output
    assert json.loads(out.read_text()) == {
        "table0": {"a": {"text": {"mean": 1.25, "sd": 0.5, "n": 2}}, "b": {"text": {"mean": 1.0, "sd": 0.0, "n": 1}}}
    }


def test_a_failure_is_told_and_ends_with_status_1(run, calls, tmp_path) -> None:
    result = run("reproduce", "--scale", "smoke", "--only", "table3", "--seeds", "2", "-o", tmp_path / "x")
    assert result.exit_code == 1
    assert "failed: fused/seed-0: no memory" in result.output


def test_plan_runs_nothing(run, calls, tmp_path) -> None:
    result = run("reproduce", "--scale", "small", "--only", "table3,table6", "--plan", "-o", tmp_path / "x")
    assert result.exit_code == 0, result.output
    assert not calls
    assert "4 runs for table3, table6, seeds 0, 1, 2" in result.output
    assert "to do   fused/seed-2" in result.output
    assert "source: zoo:text" in result.output


def test_paper_scale_needs_a_gpu(run, calls, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run("reproduce", "--scale", "paper", "--only", "table3", "-o", tmp_path / "x")
    assert result.exit_code == 0, result.output
    assert not calls
    assert "UltraLM-13b" in result.output
    assert "Nothing was run: this scale needs a GPU" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "tinny"], "--scale: 'tinny' is not one of"),
        (["--only", "table99"], "--only: 'table99' is not one of"),
        (["--seeds", "0"], "--seeds: 0 is below 1"),
        (["--judge", "foo"], "--judge: 'foo' is not an http or https address"),
    ],
)
def test_mistakes_are_one_line(run, calls, options, message) -> None:
    result = run("reproduce", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not calls


def test_lines_come_by_quarters_and_say_what_is_left() -> None:
    console = Console(file=io.StringIO(), width=200)
    lines = Lines(console)
    for done in range(1, 9):
        lines(Event("at", "fused/seed-0", 1, 3, left=150.0, phase="train all", done=done, steps=8, loss=2.5))
    lines(Event("done", "fused/seed-0", 2, 3, left=30.0, seconds=7300.0))
    shown = console.file.getvalue().splitlines()
    assert shown[-1] == "[2 of 3, about 30 s left] fused/seed-0: done in 2.0 h"
    assert shown[-2] == "[1 of 3, about 2 min left] fused/seed-0: train all 8 of 8, loss 2.500"
    assert len(shown) == 6
    assert [duration(s) for s in (40, 720, 12600)] == ["40 s", "12 min", "3.5 h"]


def test_grid_marks_the_best() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(grid(table()))
    shown = console.file.getvalue()
    best = next(line for line in shown.splitlines() if "1.000" in line)
    other = next(line for line in shown.splitlines() if "1.250" in line)
    assert "\x1b[1;32m" in best
    assert "\x1b[1;32m" not in other


def test_grid_cuts_no_number_and_says_what_it_leaves_out() -> None:
    wide = replace(
        table(),
        columns=[Column(f"c{n}", f"a long heading {n}", "nats", "low") for n in range(9)],
        rows=[
            Row(name, f"{name} with a label", {f"c{n}": Cell(n + 0.125, 0.25, 3) for n in range(9)}) for name in "ab"
        ],
    )
    for width, columns in ((80, 3), (100, 5), (200, 9)):
        console = Console(file=io.StringIO(), width=width)
        console.print(grid(wide, width))
        shown = console.file.getvalue()
        assert [f"{n}.125 ± 0.250" in shown for n in range(9)] == [n < columns for n in range(9)]
        assert (f"and {9 - columns} more column" in shown) == (columns < 9)
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= width
