import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ultrafuser.preflight import check, memory
from ultrafuser.preflight.facts import Facts, read_facts
from ultrafuser.preflight.memory import Device, gate_parameters, stage_memory
from ultrafuser.preflight.sources import locate
from ultrafuser.recipe import Recipe

GIB = 2**30


@pytest.fixture
def facts(make_recipe: Callable[..., Recipe]) -> list[Facts]:
    recipe = make_recipe()
    return [read_facts(name, locate(spec, lambda source: source)) for name, spec in recipe.specialists.items()]


def test_parameters_and_bytes_are_those_of_the_real_model(specialist_folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    from ultrafuser.recipe import SpecialistSource

    for name, folder in specialist_folders.items():
        one = read_facts(name, locate(SpecialistSource(source=str(folder)), lambda source: source))
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert one.parameters == model.num_parameters()
        assert one.weight_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
        assert one.dtype == str(model.dtype).removeprefix("torch.")
        assert one.tied == model.config.tie_word_embeddings
        assert one.vocab_rows == model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("widths", [None, (24, 16, 32)])
@pytest.mark.parametrize(
    ("kind", "projected"),
    [
        ("token", None),
        ("token", 20),
        ("joint", None),
        ("evidence", None),
        ("evidence", 20),
        ("constant", None),
        ("answer", None),
    ],
)
def test_the_gate_is_counted_as_it_is_built(
    kind: str, projected: int | None, widths: tuple[int, ...] | None, facts: list[Facts]
) -> None:
    from ultrafuser.modeling.gate import GATES

    if widths is not None:
        facts = [replace(one, hidden_size=width) for one, width in zip(facts, widths, strict=False)]
    options: dict[str, Any] = {} if kind in ("constant", "answer") else {"hidden_size": 24}
    options |= {} if projected is None else {"projection_size": projected}
    gate = GATES[kind]([one.hidden_size for one in facts], **options)
    assert gate_parameters(kind, 24, facts, projected) == sum(p.numel() for p in gate.parameters())


def test_learning_takes_sixteen_bytes_a_parameter(make_recipe: Callable[..., Recipe], facts: list[Facts]) -> None:
    recipe = make_recipe(dtype="bfloat16")
    gate, both = recipe.stages
    parameters = sum(one.parameters or 0 for one in facts)
    extra = 16 * gate_parameters("token", 512, facts)
    frozen = stage_memory(recipe, gate, facts, 100)
    learning = stage_memory(recipe, both, facts, 100)
    assert (frozen["weights"], frozen["optimiser"]) == (2 * parameters, extra)
    assert (learning["weights"], learning["optimiser"]) == (4 * parameters, 12 * parameters + extra)
    assert (frozen["examples_at_once"], learning["examples_at_once"]) == (8, 4)


def test_less_at_once_needs_less(make_recipe: Callable[..., Recipe], facts: list[Facts]) -> None:
    recipe = make_recipe()
    whole = recipe.stages[1]
    needs = [
        stage_memory(recipe, whole.model_copy(update=update), facts, 100)["activations"]
        for update in ({}, {"accumulation": 2}, {"accumulation": 2, "gradient_checkpointing": True})
    ]
    assert needs[0] == 2 * needs[1] > 2 * needs[2]
    assert stage_memory(recipe, whole, facts, 50)["activations"] < needs[0]


@pytest.mark.parametrize(
    ("total", "free", "level", "expected"),
    [
        (64 * GIB, 32 * GIB, "ok", "32.0 GiB free"),
        (64 * GIB, 100_000, "warning", "try accumulation: 4"),
        (100_000, 50_000, "error", "in all"),
        (None, None, "ok", "cannot be read here"),
    ],
)
def test_needs_are_held_against_the_device(
    make_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    total: int | None,
    free: int | None,
    level: str,
    expected: str,
) -> None:
    monkeypatch.setattr(memory, "find_device", lambda wanted: Device("cuda:0", total, free))
    report = check(make_recipe())
    found = [f for f in report.findings if f.field == "stages[0]"]
    assert [f.level for f in found] == [level]
    assert expected in str(found[0])


def test_nvidia_smi_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    output = "81559, 80000\n24576, 1000\n"
    monkeypatch.setattr("subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 0, output, ""))
    assert memory.find_device("auto") == Device("cuda:0", 81559 * 2**20, 80000 * 2**20)
    assert memory.find_device("cuda:1") == Device("cuda:1", 24576 * 2**20, 1000 * 2**20)
    assert memory.find_device("cuda:2") == Device("cuda:2", None, None)
    assert memory.find_device("cpu").name == "cpu"

    def fail(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr("subprocess.run", fail)
    assert memory.find_device("auto").name == "cpu"


def test_a_card_that_is_not_there_is_an_error(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    report = check(make_recipe(device="cuda"))
    assert [str(f) for f in report.errors] == [
        "device: 'cuda' is not on this machine (asked nvidia-smi); use auto or cpu"
    ]


def test_main_memory_is_read_where_there_is_proc() -> None:
    device = memory.find_device("cpu")
    if Path("/proc/meminfo").exists():
        assert device.total is not None
        assert device.free is not None
        assert 0 < device.free <= device.total
