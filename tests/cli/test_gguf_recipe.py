"""A recipe with a GGUF file beside it: checked, trained and opened again like one of folders."""

import json

import pytest
import yaml

pytest.importorskip("gguf")


@pytest.fixture
def recipe(make_gguf, specialist_folders, chat_templates, tmp_path):
    """A recipe of a folder and a GGUF file, whose tokenizer the fused model takes."""
    make_gguf(tmp_path / "code.gguf", template=chat_templates["code"])
    for name in ("text", "code"):
        talks = [{"id": f"{name}{i}", "question": f"{name} {i}?", "answer": f"{name} is {i}"} for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, talks)) + "\n")
    file = tmp_path / "fuse.yaml"
    stage = {"name": "gate", "train": "gate", "steps": 2, "examples_per_category": 2, "learning_rate": 0.01}
    file.write_text(
        yaml.safe_dump(
            {
                "name": "pair",
                "specialists": {
                    "text": {"source": str(specialist_folders["text"])},
                    "code": {"source": "./code.gguf", "dtype": "float32"},
                },
                "tokenizer": "code",
                "data": {name: {"train": [f"{name}.jsonl"]} for name in ("text", "code")},
                "max_length": 128,
                "stages": [stage],
                "device": "cpu",
                "output": "out",
            }
        )
    )
    return file


def test_check_train_and_open(run, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir("/")  # paths start from the recipe's folder
    checked = run("check", str(recipe), "--json", str(tmp_path / "check.json"))
    assert checked.exit_code == 0, checked.output
    assert json.loads((tmp_path / "check.json").read_text())["ok"]
    trained = run("train", str(recipe))
    assert trained.exit_code == 0, trained.output

    from ultrafuser.modeling import UltraFuserForCausalLM, content_hash

    model = UltraFuserForCausalLM.from_pretrained(tmp_path / "out")
    assert model.gate_is_trained
    place = model.config.specialist_names.index("code")
    assert model.config.sources[place]["sha256"] == content_hash(tmp_path / "code.gguf")
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
