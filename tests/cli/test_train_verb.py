"""`ultrafuser train` from recipe to saved model: what it writes, refuses, goes on with."""

import json
import random
from pathlib import Path

import pytest
import yaml

CATEGORIES = ("text", "code", "math")


def write_talks(file: Path, category: str, count: int, seed: int) -> None:
    draw = random.Random(f"{category}{seed}")
    words = [f"{category}{i}" for i in range(30)]
    lines = []
    for i in range(count):
        question, answer = (" ".join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(2))
        lines.append(json.dumps({"id": f"{category}{seed}-{i}", "question": question, "answer": answer}))
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def recipe(specialist_folders, tmp_path):
    """A recipe file of two short stages, and a way to change it."""
    for category in CATEGORIES:
        write_talks(tmp_path / f"{category}.jsonl", category, 10, 0)
        write_talks(tmp_path / f"{category}-heldout.jsonl", category, 3, 1)
    common = {"steps": 2, "examples_per_category": 2, "eval_every": 1, "save_every": 1, "logging_steps": 1}
    given = {
        "name": "tiny",
        "specialists": {name: {"source": str(folder)} for name, folder in specialist_folders.items()},
        "data": {
            category: {
                "train": [f"{category}.jsonl"],
                "heldout": [f"{category}-heldout.jsonl"],
                "validation_fraction": 0.2,
            }
            for category in CATEGORIES
        },
        "max_length": 200,
        "stages": [
            {"name": "gate", "train": "gate", "learning_rate": 0.01, **common},
            {"name": "all", "train": "all", "learning_rate": 0.003, **common},
        ],
        "output": "out",
    }
    file = tmp_path / "fuse.yaml"

    def write(**changes):
        file.write_text(yaml.safe_dump(given | changes, sort_keys=False))
        return file

    write.given = given
    write()
    return write


def test_train_saves_a_model_that_opens_and_speaks(run, recipe, tmp_path):
    file = recipe()
    result = run("train", file, "--json", tmp_path / "result.json")
    assert result.exit_code == 0, result.output
    for said in ("validation loss", "mean gate weights", "held-out loss", "uniform", "next: ultrafuser chat"):
        assert said in result.stdout
    output = tmp_path / "out"
    found = json.loads((tmp_path / "result.json").read_text())
    assert [stage["name"] for stage in found["stages"]] == ["gate", "all"]
    assert found["stages"][1]["after"]["math"] < found["stages"][0]["before"]["math"]
    assert set(found["heldout"]) == {"text", "code", "math", "uniform", "fused"}
    assert found["data"]["code"] == {
        "train": 8,
        "response_tokens": found["data"]["code"]["response_tokens"],
        "validation": 2,
        "heldout": 3,
        "dropped_too_long": 0,
        "removed_for_overlap": 0,
    }
    config = json.loads((output / "config.json").read_text())
    assert config["gate_training"]["trained"] is True
    assert config["use_cache"] is not False
    assert "name: tiny" in (output / "README.md").read_text()
    assert (output / "work/history.jsonl").is_file()
    assert not list((output / "work/2-all").glob("checkpoint-*")), "the model itself holds these weights"
    assert run("generate", output, "hello", "--max-new-tokens", 3).exit_code == 0

    before = (output / "model.safetensors").read_bytes()
    again = run("train", file)
    assert again.exit_code == 2
    assert "already holds a trained fused model" in again.stderr
    assert "--overwrite" in again.stderr
    assert (output / "model.safetensors").read_bytes() == before
    assert run("train", file, "--overwrite").exit_code == 0
    assert (output / "model.safetensors").read_bytes() == before, "the same recipe gives the same weights"


def test_a_run_cut_short_goes_on_and_ends_the_same(run, recipe, tmp_path, monkeypatch):
    from ultrafuser.training import recipe_run, trainer

    assert run("train", recipe(), "--output", tmp_path / "whole").exit_code == 0

    class Cut(BaseException):
        pass

    def cut_at(owner, name, n):
        original, calls = getattr(owner, name), []

        def wrapped(*args, **kwargs):
            calls.append(1)
            if len(calls) == n:
                raise Cut
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    for owner, name, n in ((trainer, "publish_folder", 3), (recipe_run, "save_fused", 1)):
        with monkeypatch.context():
            cut_at(owner, name, n)
            with pytest.raises(Cut):
                run("train", recipe())
            assert not (tmp_path / "out/config.json").exists()
        monkeypatch.undo()
    result = run("train", recipe())
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_changed_recipe_is_refused_while_a_run_is_unfinished(run, recipe, tmp_path, monkeypatch):
    from ultrafuser.training import recipe_run

    def fail(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(recipe_run, "save_fused", fail)
        stopped = run("train", recipe())
    assert stopped.exit_code == 2
    assert "no space left" in stopped.stderr
    assert run("train", recipe(name="renamed", device="cpu")).exit_code == 0, "a name does not change what is learnt"
    with monkeypatch.context() as patch:
        patch.setattr(recipe_run, "save_fused", fail)
        run("train", recipe(), "--overwrite")
    (tmp_path / "out/config.json").unlink()
    changed = run("train", recipe(seed=5))
    assert changed.exit_code == 2
    assert "seed: 0 -> 5" in changed.stderr
    shorter = run("train", recipe(max_length=190))
    assert "recipe.max_length: 200 -> 190" in shorter.stderr
    assert run("train", recipe(max_length=190), "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": []}, "stages: the recipe has none"),
        ({"max_length": 8}, "max_length"),
        ({"seeds": 1}, "seeds"),
        ({"data": {"text": {"train": ["text.jsonl"]}}}, "data"),
        ({"data": {"text": {"train": ["no.jsonl"]}, "code": {"train": ["code.jsonl"]}}}, "no.jsonl"),
    ],
)
def test_mistakes_are_named_before_anything_is_opened(run, recipe, tmp_path, monkeypatch, change, said):
    from ultrafuser.training import recipe_run

    monkeypatch.setattr(recipe_run, "build_model", lambda *args: pytest.fail("opened the model"))
    result = run("train", recipe(**change))
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_record_without_an_answer(run, recipe, tmp_path):
    with (tmp_path / "math.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "and?"}]}\n')
    result = run("train", recipe())
    assert result.exit_code == 2
    assert "math.jsonl, line 11: no assistant answer" in result.stderr.replace("\n", "")


def test_training_data_that_is_held_out_is_left_out(run, recipe, tmp_path):
    stolen = (tmp_path / "text-heldout.jsonl").read_text().splitlines()[0]
    with (tmp_path / "text.jsonl").open("a") as file:
        file.write(stolen + "\n")
    result = run("train", recipe(), "--json", tmp_path / "result.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "result.json").read_text())["data"]["text"]["removed_for_overlap"] == 1
    assert "text: 1 training conversations left out (also held out)" in result.stdout


def test_best_hands_on_the_best_weights(run, recipe, tmp_path):
    stages = [dict(recipe.given["stages"][1], learning_rate=0.3, steps=4)]
    result = run("train", recipe(stages=stages), "--best", "--json", tmp_path / "result.json")
    assert result.exit_code == 0, result.output
    (stage,) = json.loads((tmp_path / "result.json").read_text())["stages"]
    assert stage["after"]["text"] == stage["best"]["eval_loss_text"]


def test_gate_only_saves_megabytes_and_opens_again(run, recipe, tmp_path):
    refused = run("train", recipe(), "--gate-only")
    assert refused.exit_code == 2
    assert "--gate-only: stage 'all' trains the specialists" in refused.stderr
    file = recipe(stages=recipe.given["stages"][:1])
    assert run("train", file, "--output", tmp_path / "whole").exit_code == 0
    result = run("train", file, "--gate-only")
    assert result.exit_code == 0, result.output
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("out", "whole")]
    assert sizes[0] < sizes[1] / 4
    answers = [run("generate", tmp_path / name, "hello", "--max-new-tokens", 4).stdout for name in ("out", "whole")]
    assert answers[0] == answers[1]


def test_bfloat16_and_a_format_of_its_own(run, recipe, tmp_path):
    assert run("train", recipe(dtype="bfloat16")).exit_code == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    own = {name: dict(spec, dtype="bfloat16") for name, spec in recipe.given["specialists"].items()}
    assert run("train", recipe(specialists=own), "--output", tmp_path / "own").exit_code == 0
    assert (tmp_path / "own/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_number_format_and_device_on_the_command_line(run, recipe, tmp_path):
    assert run("train", recipe(), "--dtype", "bfloat16", "--device", "cpu").exit_code == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    wrong = run("train", recipe(), "--dtype", "float7")
    assert wrong.exit_code == 2
    assert "dtype" in wrong.stderr
    assert "float7" in wrong.stderr


def test_gate_on_quantised_specialists(run, recipe, tmp_path):
    packed = {name: dict(spec, quantisation="int8") for name, spec in recipe.given["specialists"].items()}
    file = recipe(specialists=packed, stages=recipe.given["stages"][:1])
    refused = run("train", file)
    assert refused.exit_code == 2
    assert "specialists.text.quantisation: int8 weights are not saved" in " ".join(refused.stderr.split())
    result = run("train", file, "--gate-only")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert [entry["quantisation"] for entry in config["sources"]] == ["int8"] * len(packed)
    assert run("generate", tmp_path / "out", "hello", "--max-new-tokens", 4).exit_code == 0


def test_start_goes_on_from_a_fused_model(run, recipe, tmp_path):
    """A gate stage from a saved model: its specialists and, before the first step, its gate are those of the start."""
    import torch

    from ultrafuser.modeling import UltraFuserForCausalLM

    stages = {stage["name"]: stage for stage in recipe.given["stages"]}
    assert run("train", recipe(), "--output", tmp_path / "three").exit_code == 0
    file = recipe(stages=[stages["gate"] | {"learning_rate": 1e-9, "steps": 1}])
    done = run("train", file, "--start", tmp_path / "three", "--json", tmp_path / "again.json")
    assert done.exit_code == 0, done.output
    before, after = (UltraFuserForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("three", "out"))
    for name, weight in before.items():
        same = torch.allclose if name.startswith("gate.") else torch.equal
        assert same(weight, after[name]), name
    fresh = recipe(stages=[stages["gate"] | {"learning_rate": 1e-9, "steps": 1}], output="fresh")
    assert run("train", fresh).exit_code == 0
    other = UltraFuserForCausalLM.from_pretrained(tmp_path / "fresh").state_dict()
    assert not torch.allclose(before["gate.inner.weight"], other["gate.inner.weight"])


def test_a_start_that_is_another_model_is_refused(run, recipe, fused_folder, specialist_folders, tmp_path):
    plain = specialist_folders["text"]
    assert "holds no fused model" in run("train", recipe(), "--start", plain).stderr
    fewer = {name: recipe.given["specialists"][name] for name in ("text", "code")}
    wrong = run("train", recipe(specialists=fewer), "--start", fused_folder)
    assert wrong.exit_code == 2
    assert "specialists is code, math, text in" in wrong.stderr
    other = run("train", recipe(gate={"type": "constant"}), "--start", fused_folder)
    assert "gate.type is 'token' in" in other.stderr
    assert "--start: " in run("train", recipe(), "--start", tmp_path / "nowhere").stderr
