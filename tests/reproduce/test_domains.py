"""The table of two, three and four specialists on a micro trio with a micro newcomer."""

import sys
from pathlib import Path

import pytest

from ultrafuser.reproduce import make_plan, reproduce, widening
from ultrafuser.reproduce.experiments import fused_run
from ultrafuser.reproduce.runs import Store
from ultrafuser.reproduce.tables import domains

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
OWN = widening.newcomer


@pytest.fixture(scope="module")
def fourth(tmp_path_factory):
    """A specialist and data of a fourth domain, made as the micro trio's are."""
    import micro

    patch = pytest.MonkeyPatch()
    patch.setitem(micro.TEMPLATES, "dna", "> {0}")
    folder = tmp_path_factory.mktemp("fourth")
    words = {"text": micro.WORDS["text"], "code": micro.WORDS["code"], "math": micro.WORDS["math"]}
    patch.setattr(micro, "WORDS", words | {"dna": ["A", "C", "G", "T"]})
    rng = micro.random.Random(3)
    records = [micro._record(rng, f"dna-{i}", ["dna"], i // 2) for i in range(18)]
    train = micro._write(folder / "train.jsonl", records[:14])
    heldout = micro._write(folder / "heldout.jsonl", records[14:])
    patch.setattr(micro, "WORDS", words)  # the tokenizer is the trio's
    source = micro._specialist(folder / "model", "dna", 9)
    patch.undo()
    return widening.Newcomer("dna", source, train, heldout)


@pytest.fixture(scope="module")
def made(micro_recipe, fourth, tmp_path_factory):
    """The finished table of one seed, in this process, where the newcomer is the micro one."""
    patch = pytest.MonkeyPatch()
    patch.setattr(widening, "newcomer", lambda plan: fourth)
    plan = make_plan("smoke", ["domains"], recipe=micro_recipe)
    folder = tmp_path_factory.mktemp("domains") / "run"
    report = reproduce(folder, plan, workers=0)
    yield plan, report, Store(folder, plan)
    patch.undo()


def test_every_set_has_its_row_in_every_domain(made) -> None:
    _, report, _ = made
    assert report.failures == {}
    numbers = report.numbers()["domains"]
    pairs = {"text+code", "text+math", "text+dna", "code+math", "code+dna", "math+dna"}
    alone = {"text", "code", "math", "dna"}
    assert set(numbers) == alone | pairs | {"text+code+math+dna", "three", "as_is", "kept_gate", "new_gate"}
    for key, row in numbers.items():
        assert {"text", "code", "math", "dna", "mean"} <= set(row), key
        mean = sum(row[domain]["mean"] for domain in alone) / 4
        assert row["mean"]["mean"] == pytest.approx(mean)


def test_weights_on_the_fourth_are_those_of_its_members(made) -> None:
    _, report, _ = made
    numbers = report.numbers()["domains"]
    for key, names in {"text+dna": {"text", "dna"}, "three": {"text", "code", "math"}}.items():
        found = {c.removeprefix("weight:"): cell["mean"] for c, cell in numbers[key].items() if "weight:" in c}
        assert set(found) == names
        assert sum(found.values()) == pytest.approx(1)
    assert not [column for column in numbers["dna"] if "weight:" in column]


def test_growing_touches_no_specialist(made) -> None:
    """The grown models hold the fused trio's weights and the newcomer's, bit for bit; only gates differ."""
    import torch
    from transformers import AutoModelForCausalLM

    from ultrafuser.modeling import UltraFuserForCausalLM

    plan, _, store = made
    three = UltraFuserForCausalLM.from_pretrained(store.folder / store.read(fused_run(plan, 0))["folder"])
    result = store.read(widening.grow_run(plan, 0))
    kept = store.folder / result["folder"]
    gates = []
    newcomer = AutoModelForCausalLM.from_pretrained(widening.newcomer(plan).source)
    for folder in (kept, kept.parent / "new_gate"):
        four = UltraFuserForCausalLM.from_pretrained(folder)
        assert four.config.specialist_names == [*three.config.specialist_names, "dna"]
        pairs = zip([*three.specialists, newcomer], four.specialists, strict=True)
        for before, after in pairs:
            for one, other in zip(before.state_dict().values(), after.state_dict().values(), strict=True):
                assert torch.equal(one, other)
        gates.append(four.gate.state_dict())
    assert any(not torch.equal(gates[0][name], gates[1][name]) for name in gates[0])
    assert any(not torch.equal(three.gate.state_dict()[name], gates[0][name]) for name in gates[0])


def test_the_finding_follows_from_the_intervals(made) -> None:
    plan, report, _ = made
    table = report.tables["domains"]
    grown = next(row for row in table.rows if row.key == "kept_gate")
    worse = any(grown.differences[domain].low > 0 for domain in plan.domains)
    (finding,) = table.findings
    assert finding.verdict == ("no" if worse else "yes")
    assert next(row for row in table.rows if row.key == "three").differences == {}


def test_without_a_newcomer_the_plan_s_own_model_is_the_largest(micro_plan, monkeypatch) -> None:
    monkeypatch.setattr(widening, "newcomer", OWN)
    plan = micro_plan("domains")
    assert widening.newcomer(plan) is None
    names = [run.name for run in domains.needs(plan)]
    assert names == [
        "domains-specialists", "domains-text+code/seed-0", "domains-text+math/seed-0", "domains-code+math/seed-0",
        "fused/seed-0",
    ]  # fmt: skip


def test_the_shipped_trio_has_a_fourth_that_its_own_runs_know_nothing_of(monkeypatch) -> None:
    monkeypatch.setattr(widening, "newcomer", OWN)
    plan = make_plan("tiny", ["table6"])
    assert widening.newcomer(plan) == widening.DNA
    assert "dna" not in plan.columns
    assert list(plan.recipe["specialists"]) == ["text", "code", "math"]
