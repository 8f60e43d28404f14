"""Tables 4, 8, 9, 10 and the figures on a micro trio, against numbers worked out by hand or from the stored items."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ultrafuser.baselines import BASELINES
from ultrafuser.data import load_conversations
from ultrafuser.reproduce import make_plan, reproduce
from ultrafuser.reproduce.cells import MEAN, Item, loss_by_domain
from ultrafuser.reproduce.checkpoints import checkpoint_steps
from ultrafuser.reproduce.experiments import fused_run
from ultrafuser.reproduce.readings import PARTS, add, reading_run
from ultrafuser.reproduce.runs import Results, Store
from ultrafuser.reproduce.scales import ALL, SCALES
from ultrafuser.reproduce.subsets import draw
from ultrafuser.reproduce.tables import figure5, figure7, table4, table9
from ultrafuser.reproduce.tables.drawing import mean_curve, whole_curve
from ultrafuser.reproduce.thoughts import after, split_answer

NAMES = ["table4", "table8", "table9", "table10", "figure1", "figure4", "figure5", "figure6", "figure7", "figure8"]
NAMES.append("figure9")


@pytest.fixture(scope="module")
def made(micro_recipe, tmp_path_factory):
    """The finished report over other data, with tuned specialists as the only rivals and written answers asked."""
    patch = pytest.MonkeyPatch()
    smoke = replace(SCALES["smoke"], benchmarks=("gsm8k",), benchmark_limit=1)
    patch.setitem(SCALES, "smoke", smoke)
    for name in list(BASELINES):
        if name != "further-tuned":
            patch.delitem(BASELINES, name)
    only_code = replace(BASELINES["further-tuned"], variants=lambda names, domains: ("code",))
    patch.setitem(BASELINES, "further-tuned", only_code)
    other = tmp_path_factory.mktemp("other")
    for place, name in enumerate(("text", "code", "math")):
        lines = (micro_recipe.parent / name / "train.jsonl").read_text().splitlines()
        (other / f"{name}.jsonl").write_text("\n".join(lines[place:]))
    plan = make_plan("smoke", NAMES, recipe=micro_recipe, other_data=other)
    plan = plan.model_copy(update={"extra": {"composite": [str(micro_recipe.parent / "composite" / "heldout.jsonl")]}})
    folder = tmp_path_factory.mktemp("more") / "run"
    report = reproduce(folder, plan, workers=0)
    yield plan, report, Store(folder, plan)
    patch.undo()


def test_nothing_fails_and_every_picture_is_drawn(made) -> None:
    _, report, store = made
    assert report.failures == {}
    page = (store.folder / "report.html").read_text()
    for name in NAMES:
        assert f'<section id="{name}">' in page
        if name.startswith("figure"):
            assert report.tables[name].pictures, name
            assert all(picture.svg.startswith("<svg") for picture in report.tables[name].pictures)


def test_unequal_data_keep_their_shares_and_every_checkpoint_is_read(made) -> None:
    plan, report, store = made
    assert table4.shares(plan) == {"text": 1.0, "code": 2 / 7, "math": 1 / 7}
    result = store.read(table4.runs_of(plan, "random")[0])
    assert result["drawn"] == {"text": 14, "code": 4, "math": 2}  # of 14 each
    assert [one["step"] for one in result["checkpoints"]] == [1, 2]  # of two steps no more
    assert result["curves"][ALL]["validation"] == []  # nothing is set aside, nothing chosen
    losses = [loss_by_domain([Item.of(row) for row in c["items"]], ["code"])["code"] for c in result["checkpoints"]]
    numbers = report.numbers()["table4"]
    assert numbers["random_mean"]["code"]["mean"] == pytest.approx(sum(losses) / 2)
    assert numbers["random_sd"]["code"]["mean"] == pytest.approx(abs(losses[1] - losses[0]) / 2**0.5)
    assert losses[1] == pytest.approx(numbers["random_last"]["code"]["mean"])
    assert losses[1] == pytest.approx(loss_by_domain([Item.of(r) for r in result["items"][ALL]], ["code"])["code"])


def test_steadiness_by_hand() -> None:
    assert checkpoint_steps(9000, 12) == [round(2000 + 7000 * k / 11) for k in range(12)]
    assert checkpoint_steps(3, 3) == [1, 2, 3]
    assert table4.jumps([3.0, 2.0, 1.0]) == pytest.approx(0.5**0.5)
    assert table4.deviation([3.0, 2.0, 1.0]) == 1.0
    noise = np.random.default_rng(0).normal(size=4000)
    assert table4.jumps(noise) == pytest.approx(1, abs=0.05)  # without trend: the deviation
    assert table4.jumps(noise + np.linspace(0, 50, 4000)) == pytest.approx(1, abs=0.05)  # a slow trend adds nothing
    steady, shaky = {MEAN: [1.0, 1.1, 1.0]}, {MEAN: [1.5, 1.1, 1.3]}
    verdicts = [f.verdict for f in table4._findings({"random": [shaky] * 2, "balanced": [steady] * 2})]
    assert verdicts == ["yes", "yes", "yes"]
    assert {f.verdict for f in table4._findings({"random": [shaky], "balanced": [steady]})} == {"even"}
    mixed = table4._findings({"random": [shaky, steady], "balanced": [steady, shaky]})
    assert {f.verdict for f in mixed} == {"even"}
    assert "in 1 of 2 seeds" in mixed[0].text


def test_a_part_is_drawn_from_the_whole_and_lies_in_a_larger_one(micro_recipe) -> None:
    rows = load_conversations(micro_recipe.parent / "text" / "train.jsonl", "text")
    four, eight = draw(rows, 4), draw(rows, 8)
    assert [row.id for row in four] == [row.id for row in eight if row in four]
    assert len(four) == 4
    assert draw(rows, 99) == rows
    assert [row.id for row in draw(rows[::-1], 8)] == [row.id for row in eight][::-1]  # whatever the order


def test_other_data_decide_their_own_runs_alone(made, micro_recipe, tmp_path) -> None:
    plan, report, store = made
    assert store.read(table9.runs_of(plan, "matched")[0])["drawn"] == {"text": 14, "code": 13, "math": 12}
    assert set(report.numbers()["table9"]) == {"own", "matched", "all"}
    without = make_plan("smoke", NAMES, recipe=micro_recipe).model_copy(update={"extra": plan.extra})
    assert fused_run(without, 0).key(without) == fused_run(plan, 0).key(plan)
    changed = plan.model_copy(update={"other_digest": "another"})
    assert table9.runs_of(changed, "all")[0].key(changed) != table9.runs_of(plan, "all")[0].key(plan)
    assert table9.rows_of(without) == ["quarter", "half", "own"]
    assert "the paper's question stays open" in table9.make(without, Results(store, {})).text
    with pytest.raises(ValueError, match=r"--other-data: .* holds neither a folder nor a file for 'text'"):
        make_plan("smoke", NAMES, recipe=micro_recipe, other_data=tmp_path)


def test_subset_tuning_stands_beside_tuning_on_everything(made) -> None:
    _, report, _ = made
    rows = {row.key: row for row in report.tables["table8"].rows}
    assert {"text", "text/text", "text/all", "fused_stage2"} <= set(rows)
    assert rows["math/math"].paper == {"average": 33.17}
    assert rows["code/all"].paper == {"average": 21.76}
    assert rows["text/text"].paper == {}  # the paper gives none
    assert rows["code/code"].cells["code"] != rows["code/all"].cells["code"]


def test_chain_of_thought_splits_answers_at_their_last_line(made) -> None:
    assert split_answer("a = 1\nb = 2\nThe answer is 2.\n") == ("a = 1\nb = 2\n", "The answer is 2.\n")
    assert split_answer("42") == ("", "42")
    events = [SimpleNamespace(text=text) for text in ("a", " =", " 1", "\n", "The", " end", "")]
    assert [event.text for event in after(events, len("a = 1\n"))] == ["The", " end", ""]
    _, report, _ = made
    cells = report.numbers()["table10"]["fused_stage2"]
    assert cells["asked"]["mean"] != cells["thought"]["mean"]
    assert "at_once" not in cells  # the micro answers have one line
    assert 0 <= cells["choices_asked"]["mean"] <= 100
    assert cells["written_asked"]["n"] == cells["written_thought"]["n"] == 1  # asked, as this scale asks for them


def test_tokens_add_up_to_the_weights_of_the_items(made) -> None:
    plan, _, store = made
    read, fused = store.read(reading_run(plan, 0)), store.read(fused_run(plan, 0))
    items = [Item.of(row) for row in fused["items"][ALL]]
    for column, sums in read["columns"].items():
        own = [item for item in items if item.domain == column]
        assert sum(sums["tokens"]) == sum(item.tokens for item in own)
        expected = sum(np.array(item.weights) * item.tokens for item in own)
        assert np.array(sums["weights"]).sum(0) == pytest.approx(expected, rel=1e-3)
        assert sum(sums["ranked"]) == pytest.approx(sum(sums["tokens"]), rel=1e-6)
    profile = figure7.profile(read, "code")
    assert 0 < min(profile) <= max(profile) < 1


def test_ranks_and_positions_by_hand() -> None:
    sums = {"tokens": np.zeros(PARTS), "weights": np.zeros((PARTS, 2)), "ranked": np.zeros(2)}
    events = [
        SimpleNamespace(weights=(0.9, 0.1), specialist_logprobs=(-1.0, -2.0)),
        SimpleNamespace(weights=(0.7, 0.3), specialist_logprobs=(-3.0, -2.0)),
    ]
    add(sums, events)
    assert sums["tokens"].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert sums["weights"][5].tolist() == [0.7, 0.3]
    assert sums["ranked"].tolist() == [pytest.approx(0.9 + 0.3), pytest.approx(0.1 + 0.7)]


def test_curves_of_stages_are_joined_and_averaged() -> None:
    one = {"curves": {"gate": {"steps": [1, 2], "loss": [4.0, 3.0]}, "all": {"steps": [1, 2], "loss": [2.0, 1.0]}}}
    assert whole_curve(one) == ([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])
    assert mean_curve([([1, 2], [1.0, 2.0]), ([2, 3], [4.0, 9.0])]) == ([2], [3.0])
    assert figure5._part(([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0]), 0.45, 0.55) == [3.0]
    assert figure5._part(([1, 2], [4.0, 3.0]), 0.0, 0.1) == []


def test_a_rival_that_does_not_exist_is_told(made) -> None:
    _, report, _ = made
    rows = {row.key: row for row in report.tables["figure5"].rows}
    assert rows["btx"].missing == "there is no such baseline here"
    assert rows["fused"].cells


def test_numbers_are_plain_json(made) -> None:
    _, _, store = made
    numbers = json.loads((store.folder / "numbers.json").read_text())
    assert set(numbers) == set(NAMES)
