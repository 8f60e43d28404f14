"""The zoo's build, end to end at micro scale on made-up data, with kill and resume."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.zoo.made_up import make_data
from ultrafuser.zoo.prepare import Sizes
from ultrafuser.zoo.settings import BuildSettings, Shape, TrainSettings

RUN = TrainSettings(batch=4, learning_rate=1e-3, epochs=2, check_every=4, warmup=2)
MICRO = BuildSettings(
    sizes=Sizes(heldout=6, validation=5, raw_validation=3),
    shape=Shape(vocabulary=300, hidden=16, layers=1, heads=2, intermediate=16, positions=256),
    tokenizer_characters=4000,
    raw_row=32,
    raw_tokens=32 * 96,
    raw_validation_tokens=32 * 6,
    max_length=256,
    base=RUN,
    text=RUN,
    code=RUN,
    math=RUN,
)

LONGER = dataclasses.replace(MICRO, base=dataclasses.replace(RUN, epochs=4))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("zoo") / "data")


def build_here(data: Path, work: Path, out: Path, settings: BuildSettings = MICRO) -> dict:
    """The build without worker processes: their start costs more than the training at this scale."""
    from ultrafuser.zoo import build as module
    from ultrafuser.zoo.publish import publish

    module.build_data(data, work, settings, lambda text: None)
    for name in module.NAMES:
        module.build_model(work, name, settings, 1, lambda text: None)
    return publish(work, out, settings, lambda text: None)


def test_build_publishes_four_models_and_their_numbers(data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    summary = build_here(data, tmp_path / "work", tmp_path / "out")
    assert set(summary["loss"]) == {"base", "text", "code", "math"}
    assert json.loads((tmp_path / "out/zoo.json").read_text()) == json.loads(json.dumps(summary))
    for name in summary["loss"]:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / name)
        assert model.config.vocab_size == len(tokenizer) == 300
        card = (tmp_path / "out" / name / "README.md").read_text()
        assert f"{summary['loss'][name]['text']:.3f}" in card
        assert "ultrafuser zoo build DATA" in card
    again = build_here(data, tmp_path / "work", tmp_path / "out")
    assert again["loss"] == summary["loss"]


def test_other_settings_in_the_same_work_folder_are_refused(data: Path, tmp_path: Path) -> None:
    from ultrafuser.zoo import build as module

    module.build_data(data, tmp_path, MICRO, lambda text: None)
    changed = dataclasses.replace(MICRO, seed=99)
    with pytest.raises(ValueError, match="other settings"):
        module.build_data(data, tmp_path, changed, lambda text: None)


def test_missing_data_folder_is_named_at_once(tmp_path: Path) -> None:
    from ultrafuser.zoo.build import build

    with pytest.raises(ValueError, match="nowhere"):
        build(tmp_path / "nowhere", tmp_path / "work")


def test_two_builds_of_one_stage_are_refused(tmp_path: Path) -> None:
    from ultrafuser.zoo.build import run_stage

    def again(out: Path) -> None:
        run_stage(tmp_path, "base", {}, lambda inner: None, print)

    with pytest.raises(ValueError, match=r"stage 'base' is being built in .* by another process"):
        run_stage(tmp_path, "base", {}, again, print)


SCRIPT = """
import sys
from pathlib import Path
from ultrafuser.zoo.build import build_model
from tests.zoo.test_build import LONGER
build_model(Path(sys.argv[1]), "base", LONGER, 1, print)
"""


def test_killed_training_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    """A run killed with SIGKILL after its second checkpoint ends with the weights of a run left alone."""
    import torch
    from safetensors.torch import load_file

    from ultrafuser.zoo import build as module

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for work in (whole, killed):
        module.build_data(data, work, MICRO, lambda text: None)
    module.build_model(whole, "base", LONGER, 1, lambda text: None)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(killed)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (killed / "base.checkpoints/checkpoint-8/trainer_state.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (killed / "base.checkpoints" / "checkpoint-999").mkdir()  # a checkpoint torn by the kill
    lines: list[str] = []
    module.build_model(killed, "base", LONGER, 1, lines.append)
    assert any("going on from checkpoint-" in line for line in lines)
    first, second = (load_file(work / "base/model/model.safetensors") for work in (whole, killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
