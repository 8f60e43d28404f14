"""A specialist from a base model and one domain's data: a PEFT adapter, resumable, checked against PEFT itself."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from ultrafuser.recipe import StageConfig
from ultrafuser.training import Adapter, specialise

pytest.importorskip("peft")
SUMS = [{"instruction": f"add {a} and {b}", "output": f"the sum is {a + b}"} for a in range(9) for b in range(7)]


@pytest.fixture
def data(tmp_path):
    """A file of sums."""
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    return file


def stage(**options):
    settings = {"steps": 12, "examples_per_category": 8, "learning_rate": 1e-2, "save_every": 3}
    return StageConfig(name="math", train="specialists", **(settings | options))


def train(folder, data, output, **options):
    settings = {"name": "math", "dtype": "float32", "validation_fraction": 0.2, "seed": 4}
    return specialise(folder, [data], output, options.pop("stage", stage()), **(settings | options))


def test_an_adapter_that_peft_opens_and_that_has_learned(specialist_folders, data, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = specialist_folders["math"]
    before = {file.name: file.read_bytes() for file in base.iterdir()}
    found = train(base, data, tmp_path / "adapter", merged=tmp_path / "merged")
    assert found.stage.after["math"] < found.stage.before["math"] - 0.3
    assert 0 < found.trained_parameters < found.base_parameters
    assert {file.name: file.read_bytes() for file in base.iterdir()} == before

    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([[0, 30, 40, 50, 60]])
    with torch.no_grad():
        untouched = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    assert (adapted - untouched).abs().max() > 0.1
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").chat_template
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "content hash" in card
    assert str(tmp_path) not in card
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16.0)


def test_the_adapter_alone_learns(fused_model, specialist_folders):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ultrafuser.modeling import UltraFuserForCausalLM
    from ultrafuser.training.parameters import select_trainable

    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(specialist_folders["text"]), LoraConfig(target_modules="all-linear")
    )
    model = UltraFuserForCausalLM.from_specialists(
        {"a": wrapped.get_base_model(), "b": specialist_folders["math"]}, templates=["plain", "plain"]
    )
    frozen = select_trainable(model, "specialists")
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert frozen == []
    assert {name for name in learning if name.startswith("specialist0.")} == {
        name for name, _ in model.named_parameters() if name.startswith("specialist0.") and ".lora_" in name
    }
    assert any(name.startswith("specialist1.") for name in learning)
    select_trainable(model, "gate")
    assert not any(parameter.requires_grad for parameter in model.specialist(0).parameters())


def test_killed_and_resumed_to_the_same_weights(specialist_folders, data, tmp_path):
    code = (
        "import sys; from tests.training.test_specialising import stage, train; from pathlib import Path;"
        "import torch; torch.set_num_threads(1);"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), stage=stage(steps=40))"
    )
    base = specialist_folders["text"]
    command = [sys.executable, "-c", code, str(base), str(data)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], env=env, stderr=subprocess.DEVNULL)
    folder = tmp_path / "killed" / "work" / "1-math"
    end = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*")) and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "adapter_config.json").exists()
    subprocess.run([*command, str(tmp_path / "killed")], env=env, check=True, capture_output=True, timeout=120)
    subprocess.run([*command, str(tmp_path / "whole")], env=env, check=True, capture_output=True, timeout=120)
    found = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("killed", "whole")]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_mistakes_are_told_before_the_work(specialist_folders, data, tmp_path, monkeypatch):
    base = specialist_folders["text"]
    with pytest.raises(ValueError, match=r"rank 0, .* the rank must be at least 1"):
        Adapter(rank=0)
    with monkeypatch.context() as patch:
        patch.setattr("ultrafuser.training.specialising.open_specialist", lambda *_, **__: pytest.fail("opened"))
        with pytest.raises(ValueError, match=r"--targets: \['query'\] fits no layer .* q_proj") as error:
            train(base, data, tmp_path / "a", adapter=Adapter(targets=("query",)))
        assert "norm" not in str(error.value)
        for ends in ("lm_head", "embed_tokens"):
            with pytest.raises(ValueError, match=rf"--targets: '(model.)?{ends}' is embedding or head, .* q_proj"):
                train(base, data, tmp_path / "a", adapter=Adapter(targets=("q_proj", ends)))
    with pytest.raises(ValueError, match=r"BASE: folder .* does not exist"):
        train(tmp_path / "none", data, tmp_path / "a")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds an adapter; choose another folder or give --overwrite"):
        train(base, data, tmp_path / "there")
    assert not (tmp_path / "a").exists()


def test_the_verb(specialist_folders, data, tmp_path):
    import typer.testing

    from ultrafuser.cli import build_app

    words = ["specialise", specialist_folders["text"], "--data", data, "-o", tmp_path / "out", "--steps", 2]
    words += ["--warmup-steps", 0, "--examples", 4, "--validation-fraction", 0.2, "--json", tmp_path / "a.json"]
    result = typer.testing.CliRunner().invoke(build_app(), [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "adapter saved to" in result.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["stage"]["steps"] == 2
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
