import dataclasses
import io
import json
from pathlib import Path

import pytest
from made_up_runs import NASTY, benchmark_settings, made_up_run, nasty_run, run_settings
from rich.console import Console

from ultrafuser.evaluation.compare import compare_runs, run_names, show
from ultrafuser.evaluation.record import Entry, Run
from ultrafuser.evaluation.statistics import paired, summarise
from ultrafuser.evaluation.units import difference_text, interval_text, item_score_text, p_text, score_text, unit_of


def simple(folder: Path, name: str, **benchmarks: list[float]) -> Run:
    entries = {
        benchmark: [
            Entry(id=str(n), scores={"accuracy": v}, turns=[f"q{n}"], answers=[f"{name} says {v}"], extracted=str(v))
            for n, v in enumerate(values)
        ]
        for benchmark, values in benchmarks.items()
    }
    settings = {benchmark: benchmark_settings(len(values)) for benchmark, values in benchmarks.items()}
    return Run(folder / name, run_settings(name, settings), entries)


def printed(comparison, width: int = 120, **options) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width), comparison, **options)
    return out.getvalue()


def test_table_is_made_of_the_statistics(tmp_path: Path) -> None:
    a, b = made_up_run(tmp_path, "fused", 0.7), made_up_run(tmp_path, "text", 0.2)
    comparison = compare_runs([a, b])
    assert comparison.runs == ["fused", "text"]
    assert comparison.baseline == "fused"
    assert list(comparison.benchmarks) == ["gsm8k", "svamp", "loss"]
    row = comparison.benchmarks["gsm8k"]
    assert row["scores"]["text"] == summarise(b.entries["gsm8k"], "accuracy")
    assert row["against"] == {"text": paired(b.entries["gsm8k"], a.entries["gsm8k"], "accuracy")}
    assert row["unit"] == "percent"
    assert comparison.benchmarks["loss"]["unit"] == "plain"
    assert comparison.oracle is None  # there is one other run only: nothing to choose from
    assert comparison.warnings == []
    json.dumps(comparison.as_dict(), allow_nan=False)


def test_best_is_marked_only_beyond_noise(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, name, chance) for name, chance in (("fused", 0.8), ("text", 0.2), ("math", 0.3))]
    clear = compare_runs(runs).benchmarks["gsm8k"]
    assert (clear["leader"], clear["best"]) == ("fused", "fused")
    assert clear["verdict"] == "fused is ahead beyond noise (p < 0.05 against each other run)"
    runs.append(made_up_run(tmp_path, "near", 0.78))
    near = compare_runs(runs).benchmarks["gsm8k"]
    assert (near["leader"], near["best"]) == ("fused", None)
    assert near["verdict"].startswith("fused has the best figure, but not beyond noise against near (p = ")
    level = compare_runs([simple(tmp_path, "a", x=[1, 0]), simple(tmp_path, "b", x=[0, 1])]).benchmarks["x"]
    assert (level["best"], level["verdict"]) == (None, "a and b have the same best figure")
    alone = compare_runs(runs[:1]).benchmarks["gsm8k"]
    assert (alone["best"], alone["against"], alone["differences"]) == (None, {}, None)


def test_lower_is_better_where_the_benchmark_says_so(tmp_path: Path) -> None:
    low, high = made_up_run(tmp_path, "low", 0.5), made_up_run(tmp_path, "high", 0.5)
    high.entries["loss"] = [
        dataclasses.replace(entry, scores={"loss": entry.scores["loss"] + 1}) for entry in low.entries["loss"]
    ]
    row = compare_runs([high, low]).benchmarks["loss"]
    assert row["best"] == "low"
    assert row["against"]["low"]["better"] == "a"
    assert row["against"]["low"]["difference"] == pytest.approx(-1)


def test_average_is_over_shares_that_all_runs_have_and_says_so(tmp_path: Path) -> None:
    a = simple(tmp_path, "a", x=[1, 1, 0, 0], y=[1, 1, 1, 0], z=[1, 1])
    b = simple(tmp_path, "b", x=[1, 0, 0, 0], y=[1, 1, 0, 0])
    a.entries["loss"] = b.entries["loss"] = [Entry(id="l", scores={"accuracy": 2.0})]
    for run in (a, b):
        run.settings["benchmarks"]["loss"] = benchmark_settings(1, higher_is_better=False)
    average = compare_runs([a, b]).average
    assert average["benchmarks"] == ["x", "y"]
    assert average["left_out"] == {"z": "not in b", "loss": "not a share between 0 and 1"}
    assert average["scores"]["a"]["score"] == pytest.approx((0.5 + 0.75) / 2)
    assert average["against"]["b"]["difference"] == pytest.approx(-0.25)
    low, high = average["scores"]["a"]["ci95"]
    assert low < 0.625 < high
    del a.entries["y"], b.entries["y"]
    assert compare_runs([a, b]).average is None  # one benchmark alone has no average


def test_average_resamples_benchmarks_independently(tmp_path: Path) -> None:
    values = [1.0, 0.0] * 20
    one, two = (compare_runs([simple(tmp_path, "a", x=values, y=values)]) for _ in range(2))
    assert one.average == two.average
    single = one.benchmarks["x"]["scores"]["a"]["ci95"]
    low, high = one.average["scores"]["a"]["ci95"]
    assert (high - low) / (single[1] - single[0]) == pytest.approx(2**-0.5, abs=0.06)


def test_oracle_row_takes_the_best_of_the_others(tmp_path: Path) -> None:
    fused = simple(tmp_path, "fused", x=[1, 1, 0, 0], y=[1, 1, 1, 0])
    code = simple(tmp_path, "code", x=[1, 0, 0, 0], y=[1, 1, 0, 0])
    math = simple(tmp_path, "math", x=[1, 1, 0, 0], y=[0, 0, 0, 1])
    oracle = compare_runs([fused, code, math]).oracle
    assert oracle["of"] == ["code", "math"]
    assert oracle["scores"] == {"x": {"run": "math", "score": 0.5}, "y": {"run": "code", "score": 0.5}}
    assert oracle["average"] == pytest.approx(0.5)
    assert oracle["baseline_over_oracle"] == pytest.approx(0.625 / 0.5)
    assert oracle["best_single"] in ("code", "math")
    assert oracle["baseline_over_best_single"] == pytest.approx(0.625 / 0.375)


def test_baseline_by_name_or_folder_and_not_by_chance(tmp_path: Path) -> None:
    runs = [simple(tmp_path, "a", x=[1, 0]), simple(tmp_path, "b", x=[1, 1])]
    assert compare_runs(runs, "b").baseline == compare_runs(runs, str(tmp_path / "b")).baseline == "b"
    assert list(compare_runs(runs, "b").benchmarks["x"]["against"]) == ["a"]
    with pytest.raises(ValueError, match="baseline: 'c' is not one of a, b"):
        compare_runs(runs, "c")
    with pytest.raises(ValueError, match="runs: none"):
        compare_runs([])
    with pytest.raises(ValueError, match="given twice"):
        compare_runs([runs[0], runs[0]])


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [simple(tmp_path / sub, "run", x=[1]) for sub in ("one", "two")]
    assert run_names(runs) == ["one/run", "two/run"]
    assert compare_runs(runs).runs == ["one/run", "two/run"]


def test_warnings_name_field_and_both_values(tmp_path: Path) -> None:
    a = made_up_run(tmp_path, "a", 0.5)
    b = made_up_run(tmp_path, "b", 0.5, max_new_tokens=64, chain_of_thought=True)
    b.settings["benchmarks"]["gsm8k"]["data"] = {"from": "sample", "path": "x.jsonl", "sha256": "c", "records": 60}
    b.settings["benchmarks"]["gsm8k"]["title"] = "other words for the same"
    b.entries["svamp"][0] = dataclasses.replace(b.entries["svamp"][0], turns=["something else"])
    b.entries["svamp"].pop()
    assert compare_runs([a, b]).warnings == [
        "svamp: b is not finished: it has 29 of 30 answers",
        f"gsm8k: data.sha256 is '{'ab' * 10}... in a and 'c' in b",
        "gsm8k: max_new_tokens is 512 in a and 64 in b",
        "gsm8k: chain_of_thought is False in a and True in b",
        "svamp: 1 item (gsm8k/29) is only in a; paired tests leave them out",
        "svamp: 1 item (gsm8k/0) is not asked in the same words in a and b",
    ]


def test_items_that_runs_differ_on_come_with_what_each_wrote(tmp_path: Path) -> None:
    a, b = simple(tmp_path, "a", x=[1, 0, 1, 0.5]), simple(tmp_path, "b", x=[1, 1, 0, 0.25])
    found = compare_runs([a, b]).benchmarks["x"]["differences"]
    assert (found["total"], found["compared"]) == (3, 4)
    assert [item["id"] for item in found["items"]] == ["1", "2", "3"]  # the largest spread first
    first = found["items"][0]
    assert first["question"] == ["q1"]
    assert first["runs"]["b"]["answers"] == ["b says 1"]
    assert (first["runs"]["a"]["score"], first["runs"]["a"]["extracted"]) == (0, "0")
    text = printed(compare_runs([a, b]), differences=1)
    assert "the runs differ on 3 of 4 items" in text
    assert "b says 1" in text
    assert "q2" not in text
    assert "differ on" not in printed(compare_runs([a, b]), differences=0)


def test_terminal_shows_scores_tests_average_and_what_to_beware_of(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, n, c) for n, c in (("fused", 0.9), ("text", 0.2), ("math", 0.3))]
    comparison = compare_runs(runs)
    text = printed(comparison)
    score = comparison.benchmarks["gsm8k"]["scores"]["fused"]["score"]
    assert f"{100 * score:.1f}*" in text
    assert "average: mean of gsm8k, svamp" in text
    assert "without loss: not a share" in text
    assert "best of" in text
    assert "cut off by the length limit: 8 of 60 in fused" in text
    assert "< 0.001" in text


def test_nothing_that_a_model_writes_reaches_the_terminal_as_a_control_character(tmp_path: Path) -> None:
    runs = [nasty_run(tmp_path, "a"), nasty_run(tmp_path, "[red]b")]
    runs[1].entries["gsm8k"] = [
        dataclasses.replace(entry, scores={"accuracy": 1 - entry.scores["accuracy"]})
        for entry in runs[1].entries["gsm8k"]
    ]
    text = printed(compare_runs(runs), differences=50)
    assert not set(text) & {"\x1b", "\x00", "\x07", "\u202e", "\ud83d"}
    assert "[red]b" in text
    assert NASTY[0][:20] in text
    assert "characters ..." in text
    text.encode("utf-8")


def test_benchmark_without_answers_yet(tmp_path: Path) -> None:
    a, b = simple(tmp_path, "a", x=[1, 0]), simple(tmp_path, "b", x=[])
    comparison = compare_runs([a, b])
    assert comparison.benchmarks["x"]["scores"]["b"]["score"] is None
    assert comparison.benchmarks["x"]["against"]["b"]["p"] is None
    assert "–" in printed(comparison)


def test_units() -> None:
    assert unit_of("accuracy", [0.0, 1.0]) == "percent"
    assert unit_of("loss", [0.5], higher_is_better=False) == unit_of("points", [3.0]) == "plain"
    assert unit_of("rating", [1.0]) == "rating"
    assert (score_text(0.616, "percent"), score_text(7.017, "rating"), score_text(1.8744, "plain")) == (
        "61.6",
        "7.02",
        "1.874",
    )
    assert (score_text(None, "percent"), difference_text(-0.05, "percent")) == ("–", "−5.0")
    assert (item_score_text(1, "percent"), item_score_text(0.5, "percent"), item_score_text(1, "plain")) == (
        "right",
        "50.0",
        "1.000",
    )
    assert interval_text({"ci95": [0.5, 0.75], "exact95": [0.4, 0.8]}, "percent") == "50.0 to 75.0"
    assert interval_text({"ci95": [0.0, 0.0], "exact95": [0.0, 0.06]}, "percent") == "0.0 to 6.0 (exact)"
    assert interval_text({"ci95": None}, "plain") == ""
    assert [p_text(p) for p in (0.0002, 0.0312, 0.5, None)] == ["p < 0.001", "p = 0.031", "p = 0.50", "no test"]
