"""The whole path on a micro trio: plan, keys, results kept, failures, tables, report."""

import json
import re
import shutil

import pytest

from ultrafuser.reproduce import SCALES, TABLES, chosen_tables, make_plan, report_so_far, reproduce
from ultrafuser.reproduce.cells import weights_by_domain
from ultrafuser.reproduce.experiments import fused_run, specialists_run
from ultrafuser.reproduce.report import cell_text
from ultrafuser.reproduce.run import Results, Store
from ultrafuser.reproduce.tables.table import items_of

TWO = ("table3", "table6")


@pytest.fixture(scope="module")
def finished(micro_recipe, tmp_path_factory):
    """A finished reproduction of tables 3 and 6 in this process: folder, plan, report, events."""
    folder, events = tmp_path_factory.mktemp("reproduce") / "run", []
    plan = make_plan("smoke", TWO, recipe=micro_recipe)
    plan = plan.model_copy(update={"extra": {"composite": [str(micro_recipe.parent / "composite" / "heldout.jsonl")]}})
    report = reproduce(folder, plan, workers=0, on_event=events.append)
    return folder, plan, report, events


def test_json_has_a_number_per_cell(finished) -> None:
    numbers = json.loads((finished[0] / "numbers.json").read_text())
    assert list(numbers) == ["table3", "table6"]
    for row in ("text", "code", "math"):
        assert set(numbers["table3"][row]) == {"text", "code", "math", "composite", "mean"}
        for cell in numbers["table3"][row].values():
            assert set(cell) == {"mean", "sd", "n"}
            assert 3 < cell["mean"] < 8
    for domain in ("text", "code", "math", "composite"):
        assert sum(numbers["table6"][row][domain]["mean"] for row in ("text", "code", "math")) == pytest.approx(1)


def test_numbers_follow_from_the_stored_items(finished) -> None:
    folder, plan, report, _ = finished
    result = Results(Store(folder, plan), {}).get(fused_run(plan, 0))
    weights = weights_by_domain(items_of(result, "all"), plan.columns, plan.specialists)
    for place, name in enumerate(plan.specialists):
        assert report.numbers()["table6"][name]["code"]["mean"] == pytest.approx(weights["code"][place])
    assert result["made"]["all"]["parameters_trained"] > result["made"]["gate"]["parameters_trained"]
    assert not list((folder / "work").rglob("checkpoint-*"))
    assert (folder / result["folder"] / "config.json").is_file()


def test_report_holds_every_number(finished) -> None:
    folder, _, report, _ = finished
    page, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for table in report.tables.values():
        for row in table.rows:
            for column in table.columns:
                text = cell_text(row.cells[column.key], column.unit)
                assert text in page
                assert text in markdown
            for column in table.paper_columns:
                if column.key in row.paper:
                    assert f"{row.paper[column.key]:.{3 if column.unit == 'nats' else 2}f}" in page
    assert not re.search(r'(src|href)="(?!#)', page)  # nothing is loaded


def test_a_report_of_what_is_there_runs_nothing(finished, tmp_path) -> None:
    folder, plan, report, _ = finished
    wider = plan.model_copy(update={"tables": ["table1", *plan.tables]})
    shutil.copytree(folder, tmp_path / "copy")
    for file in (tmp_path / "copy" / "runs").glob("specialists*"):
        file.unlink()
    so_far = report_so_far(tmp_path / "copy", wider)
    assert so_far.numbers()["table6"] == report.numbers()["table6"]
    assert not so_far.numbers().get("table3")
    assert "not run" in (tmp_path / "copy" / "report.md").read_text()
    assert not list((tmp_path / "copy" / "runs").glob("specialists*"))
    with pytest.raises(ValueError, match="holds no reproduction"):
        report_so_far(tmp_path, plan)


def test_what_is_there_is_not_run_again(finished) -> None:
    folder, plan, report, events = finished
    assert [event.run for event in events if event.kind == "done"] == ["specialists", "fused/seed-0"]
    again: list = []
    second = reproduce(folder, plan, workers=0, on_event=again.append)
    assert again == []
    assert second.numbers() == report.numbers()


def test_keys_follow_what_decides_the_result(micro_plan) -> None:
    plan = micro_plan("table6")
    key = fused_run(plan, 0).key(plan)
    assert fused_run(plan, 0).key(plan) == key
    assert fused_run(plan, 1).key(plan) != key
    assert fused_run(plan, 0, changes={"gate": {"type": "joint"}}).key(plan) != key
    other = plan.model_copy(update={"digest": "other"})
    assert fused_run(other, 0).key(other) != key
    more = plan.model_copy(update={"seeds": [0, 1, 2], "tables": ["table3"]})
    assert fused_run(more, 0).key(more) == key  # other seeds and tables leave it alone
    longer = json.loads(plan.model_dump_json())
    longer["recipe"]["stages"][0]["steps"] = 9
    longer = type(plan).model_validate(longer)
    assert specialists_run(longer).key(longer) == specialists_run(plan).key(plan)  # trains nothing
    assert fused_run(longer, 0).key(longer) != key


def test_a_failing_run_takes_nothing_with_it(micro_plan, tmp_path, monkeypatch) -> None:
    import ultrafuser.training

    def broken(*arguments, **settings):
        raise RuntimeError("no more of this\nsecond line")

    monkeypatch.setattr(ultrafuser.training, "run_stages", broken)
    plan = micro_plan(*TWO)
    report = reproduce(tmp_path / "run", plan, workers=0)
    assert report.failures == {"fused/seed-0": "no more of this"}
    numbers = report.numbers()
    assert numbers["table3"]["code"]["code"]["n"] == 1
    assert numbers["table6"] == {}
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("no more of this") >= 4  # at the top, and with each row that lacks it
    errors = list((tmp_path / "run" / "work").rglob("error.txt"))
    assert "second line" in errors[0].read_text()
    monkeypatch.undo()
    assert reproduce(tmp_path / "run", plan, workers=0).failures == {}  # tried again
    assert not list((tmp_path / "run" / "work").rglob("error.txt"))


def test_tables_by_scale_and_by_name() -> None:
    for scale in SCALES:
        assert set(chosen_tables(scale, None)) <= set(TABLES)
    assert chosen_tables("smoke", None) == list(TABLES)
    assert chosen_tables("tiny", "table6, table3") == ["table3", "table6"]
    with pytest.raises(ValueError, match="--only: 'table33' is not one of"):
        chosen_tables("tiny", "table33")
    with pytest.raises(ValueError, match="--only: ',' names no table"):
        chosen_tables("tiny", ",")


def test_mistakes_are_told_before_anything_runs(tmp_path, micro_recipe) -> None:
    with pytest.raises(ValueError, match="--scale: 'huge' is not one of"):
        make_plan("huge", ["table3"])
    with pytest.raises(ValueError, match="--seeds: 0 is below 1"):
        make_plan("tiny", ["table3"], seeds=0)
    with pytest.raises(ValueError, match="neither a folder nor a file for 'text'"):
        make_plan("small", ["table3"], data=tmp_path)
    with pytest.raises(ValueError, match="--data and --recipe are both given"):
        make_plan("small", ["table3"], data=tmp_path, recipe=micro_recipe)
    one = tmp_path / "one.yaml"
    one.write_text(micro_recipe.read_text().replace("train: all", "train: gate"))
    with pytest.raises(ValueError, match="stages that train gate, gate; the tables compare the paper's two"):
        make_plan("small", ["table3"], recipe=one)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds files, but none of an earlier reproduction"):
        reproduce(tmp_path / "full", make_plan("smoke", ["table3"], recipe=micro_recipe))


def test_own_data_takes_the_place_of_the_sample(tmp_path) -> None:
    for name in ("text", "code"):
        (tmp_path / name).mkdir()
    (tmp_path / "math.jsonl").write_text("{}\n")
    (tmp_path / "heldout").mkdir()
    (tmp_path / "heldout" / "code.jsonl").write_text("{}\n")
    plan = make_plan("small", ["table3"], data=tmp_path)
    data = plan.recipe["data"]
    assert data["text"]["train"] == [str(tmp_path / "text")]
    assert data["math"]["train"] == [str(tmp_path / "math.jsonl")]
    assert data["code"]["heldout"] == [str(tmp_path / "heldout" / "code.jsonl")]
    assert data["text"]["heldout"] == ["zoo-sample:text/heldout"]
    assert plan.extra == {"composite": ["zoo-sample:composite/heldout"]}
    assert plan.digest != make_plan("small", ["table3"]).digest
