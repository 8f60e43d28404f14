"""The scripts under benchmarks/ run, at a size where the figures mean nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from made_up import GOOD, made_up

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cost_of_fusion(tmp_path, monkeypatch, capsys) -> None:
    module = load("fused_cost")
    monkeypatch.setattr(module, "loss_memory", lambda options: dict.fromkeys(module.LOSSES, 2.0))
    size = "--hidden 16 --layers 1 --vocabulary 300 --batch 1 2 --tokens 3 --examples 2 --rounds 1"
    monkeypatch.setattr(sys, "argv", ["fused_cost.py", *size.split(), "--json", str(tmp_path / "cost.json")])
    module.main()
    found = json.loads((tmp_path / "cost.json").read_text())
    assert set(found["decode_tokens_per_second"]) == {"1", "2"}
    for numbers in (*found["decode_tokens_per_second"].values(), found["training_step_ms"]):
        assert all(value > 0 for value in numbers.values())
    assert "three one by one" in capsys.readouterr().out


def test_table_over_seeds(tmp_path, capsys) -> None:
    module = load("demo_seeds")
    paths = []
    for seed, code in ((0, 1.75), (1, 1.95)):
        result, _ = made_up({**GOOD, "stage2": {**GOOD["stage2"], "code": code}})
        result.seed = seed
        paths.append(tmp_path / f"{seed}.json")
        paths[-1].write_text(result.model_dump_json())
    module.main([str(path) for path in paths])
    shown = capsys.readouterr().out
    assert "| fused, stage 2 | 3.000 | 1.850 ± 0.141 | 1.800 | 2.500 |" in shown
    assert "stage 2 below the best specialist in every domain: 1 of 2 runs" in shown
    assert "right specialist in every domain: 2 of 2 runs" in shown


def test_without_runs_the_use_is_shown() -> None:
    with pytest.raises(SystemExit, match="ultrafuser demo --seed"):
        load("demo_seeds").main([])
