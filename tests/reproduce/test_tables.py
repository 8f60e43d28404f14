"""Tables 1, 2 and 11 on a micro trio, with two baselines standing for all of them."""

from dataclasses import replace

import pytest

from ultrafuser.baselines import BASELINES, Baseline, Made
from ultrafuser.reproduce import make_plan, reproduce
from ultrafuser.reproduce.cells import MEAN
from ultrafuser.reproduce.methods import method_run
from ultrafuser.reproduce.report import difference_text, render_html, render_markdown
from ultrafuser.reproduce.runs import Store, in_order
from ultrafuser.reproduce.scales import SCALES
from ultrafuser.reproduce.tables import TABLES, table1, table2, wanted_runs
from ultrafuser.reproduce.tables.methods_in import by_domain


def broken(setting) -> Made:
    raise ValueError("this one cannot be made")


@pytest.fixture(scope="module")
def made(micro_recipe, tmp_path_factory):
    """The finished report, with an average, one that trains, one that fails and one whose package is missing."""
    patch = pytest.MonkeyPatch()
    patch.setitem(SCALES, "smoke", replace(SCALES["smoke"], benchmarks=()))
    rows = {name: replace(BASELINES[name], variants=lambda names, domains: ("",)) for name in ("average",)}
    rows["further-tuned"] = replace(BASELINES["further-tuned"], variants=lambda names, domains: ("code",))
    rows["broken"] = Baseline("broken", "fails", broken)
    rows["elsewhere"] = Baseline("elsewhere", "needs what nobody has", broken, needs=("no_such_package_1",))
    for name in list(BASELINES):
        patch.delitem(BASELINES, name)
    for name, row in rows.items():
        patch.setitem(BASELINES, name, row)
    plan = make_plan("smoke", ["table1", "table2", "table11"], recipe=micro_recipe)
    folder = tmp_path_factory.mktemp("tables") / "run"
    report = reproduce(folder, plan, workers=0)
    yield plan, report, Store(folder, plan)
    patch.undo()


def test_every_method_has_its_row(made) -> None:
    _, report, _ = made
    numbers = report.numbers()["table1"]
    assert set(numbers) == {
        "text", "code", "math", "uniform", "fused_stage1", "fused_stage2", "average", "further-tuned:code",
        "further-tuned:code@operations", "best_specialist_per_domain", "best_specialist_per_sample",
    }  # fmt: skip
    for domain in ("text", "code", "math"):
        specialists = [numbers[name][domain]["mean"] for name in ("text", "code", "math")]
        assert numbers["best_specialist_per_domain"][domain]["mean"] == min(specialists)
        assert numbers["best_specialist_per_sample"][domain]["mean"] <= min(specialists)
    row = numbers["fused_stage2"]
    assert row[MEAN]["mean"] == pytest.approx(sum(row[d]["mean"] for d in ("text", "code", "math")) / 3)


def test_equal_operations_are_nearly_equal(made) -> None:
    _, report, _ = made
    costs = report.numbers()["table11"]
    ours = costs["fused_stage2"]["training_operations"]["mean"]
    once = costs["further-tuned:code"]
    note = next(row.note for row in report.tables["table1"].rows if row.key == "further-tuned:code@operations")
    steps = int(note.split(" steps")[0].split()[-1])
    assert steps > once["steps"]["mean"] == 4
    assert steps * once["training_operations"]["mean"] / 4 == pytest.approx(ours, rel=0.2)
    assert costs["average"]["training_operations"]["mean"] == 0
    assert costs["code"]["parameters_used"]["mean"] < costs["fused_stage2"]["parameters_used"]["mean"]


def test_losses_of_a_rivals_training_are_kept(made) -> None:
    plan, _, store = made
    result = store.read(method_run(plan, "further-tuned:code", 0))
    assert result["curves"]["further"]["steps"] == [1, 2, 3, 4]
    assert set(result["curves"]["further"]["validation"][-1]) == {"text", "code", "math"}


def test_what_fails_and_what_is_not_installed_is_told(made) -> None:
    _, report, _ = made
    assert report.failures["broken/seed-0"] == "this one cannot be made"
    assert "needs broken/seed-0" in report.failures["broken@operations/seed-0"]
    rows = {row.key: row for row in report.tables["table1"].rows}
    assert rows["broken"].missing == "this one cannot be made"
    assert rows["elsewhere"].missing == "needs the package no_such_package_1, which is not installed"
    assert not any("elsewhere" in name for name in report.failures)


def test_differences_are_in_page_and_markdown(made) -> None:
    _, report, _ = made
    page, markdown = render_html(report), render_markdown(report)
    rows = {row.key: row for row in report.tables["table1"].rows}
    assert not rows["fused_stage2"].differences
    for key in ("average", "further-tuned:code"):
        for gap in rows[key].differences.values():
            assert gap.low <= gap.mean <= gap.high
            mean, interval = difference_text(gap)
            assert f"{mean}<br>{interval}" in page
            assert f"{mean} {interval}" in markdown


def test_ablation_differs_in_what_it_says(made) -> None:
    plan, report, _ = made
    assert set(report.numbers()["table2"]) == set(table2.LABELS)
    stages = table2.variants(plan)
    assert [s.steps for s in stages["direct"]] == [4]  # as many as both stages
    assert [s.sampler for s in stages["two_stages"]] == ["random", "random"]
    assert {row.key for row in report.tables["table2"].rows if row.ours} == {"balanced"}
    ours = report.numbers()
    assert ours["table2"]["balanced"]["code"] == ours["table1"]["fused_stage2"]["code"]  # one run for both


def test_paper_by_domain() -> None:
    assert by_domain("UltraFuser") == {
        "text": pytest.approx((64.67 + 82.35) / 2),
        "code": 53.03,
        "math": pytest.approx((54.59 + 11.36 + 30.00 + 26.38) / 4),
        "average": 46.05,
    }
    assert by_domain("best specialist")["average"] == 44.96


def test_names_of_runs_are_one_to_one_at_every_scale() -> None:
    for scale in ("smoke", "tiny", "small"):
        plan = make_plan(scale, list(TABLES))
        runs = in_order(wanted_runs(plan), plan)  # asserts that no two runs share a name
        assert len({run.name for run in runs.values()}) == len(runs)
    assert table1.OURS in {"fused_stage2"}
