"""The table of what goes beyond the paper, on a micro trio: every row is made, and says what it took."""

import pytest

from ultrafuser.reproduce import make_plan, reproduce
from ultrafuser.reproduce.runs import Store
from ultrafuser.reproduce.starts import TEMPERATURES
from ultrafuser.reproduce.tables import beyond, table2


@pytest.fixture(scope="module")
def made(micro_recipe, tmp_path_factory):
    plan = make_plan("smoke", ["beyond"], recipe=micro_recipe)
    folder = tmp_path_factory.mktemp("beyond") / "run"
    return plan, reproduce(folder, plan, workers=0), Store(folder, plan)


def test_every_row_is_there(made) -> None:
    _, report, _ = made
    assert report.failures == {}
    numbers = report.numbers()["beyond"]
    assert list(numbers) == list(beyond.VARIANTS)
    for key, cells in numbers.items():
        assert {"text", "code", "math", "mean", "parameters_trained", "training_operations"} <= set(cells), key
        assert 3 < cells["mean"]["mean"] < 8
    assert len(report.tables["beyond"].findings) == len(beyond.VARIANTS) - 1


def test_rows_are_really_different_trainings(made) -> None:
    _, report, _ = made
    numbers = report.numbers()["beyond"]
    reference = numbers["reference"]["mean"]["mean"]
    for key, cells in numbers.items():
        if key not in ("reference", "temperature_chosen"):
            assert cells["mean"]["mean"] != reference, key


def test_no_start_is_the_run_of_table_2(made) -> None:
    plan, _, _ = made
    assert [run.key(plan) for run in beyond.runs_of(plan, "no_start")] == [
        run.key(plan) for run in table2.runs_of(plan, "direct_full_balanced")
    ]


def test_the_chosen_temperature_is_the_best_on_validation(made) -> None:
    plan, _, store = made
    result = store.read(beyond.runs_of(plan, "temperature_chosen")[0])
    losses = {float(key): loss for key, loss in result["validation"].items()}
    assert set(losses) == set(TEMPERATURES)
    assert losses[result["temperature"]] == min(losses.values())
    fused = store.read(beyond.runs_of(plan, "reference")[0])
    after = fused["stages"][-1]["after"]
    assert losses[1.0] == pytest.approx(sum(after.values()) / len(after), abs=1e-5)  # the reference as it was


def test_low_rank_trains_little_and_leaves_ordinary_models(made) -> None:
    from ultrafuser.modeling import UltraFuserForCausalLM

    plan, report, store = made
    numbers = report.numbers()["beyond"]
    few, all_of_it = (numbers[key]["parameters_trained"]["mean"] for key in ("low_rank", "reference"))
    assert few < 0.8 * all_of_it
    low, whole = (
        UltraFuserForCausalLM.from_pretrained(store.folder / store.read(beyond.runs_of(plan, key)[0])["folder"])
        for key in ("low_rank", "reference")
    )
    assert {name: p.shape for name, p in low.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}


def test_starts_are_cheaper_than_stage_1(made) -> None:
    plan, report, store = made
    numbers = report.numbers()["beyond"]
    result = store.read(beyond.runs_of(plan, "newton_start")[0])
    assert len(result["start"]["losses"]) == beyond.NEWTON + 1
    assert result["start"]["losses"][-1] < result["start"]["losses"][0]
    direct = numbers["no_start"]["training_operations"]["mean"]
    closed, newton = (numbers[f"{key}_start"]["training_operations"]["mean"] for key in ("closed_form", "newton"))
    assert direct < closed < newton
