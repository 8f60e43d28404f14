"""The verbs `init` and `check`: what they write, print, and answer as exit status."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ultrafuser.cli import main
from ultrafuser.recipe import json_schema, load_recipe
from ultrafuser.recipe.presets import preset, preset_names

_SPEC = importlib.util.spec_from_file_location("small", Path(__file__).parents[1] / "preflight" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
small: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    for name in ("text", "code"):
        small.write_model(tmp_path / "models" / name)
        small.write_data(tmp_path / "data" / f"{name}.jsonl")
    file = tmp_path / "fuse.yaml"
    file.write_text(
        "name: pair\n"
        "specialists:\n  text: {source: models/text}\n  code: {source: models/code}\n"
        "data:\n  text: {train: [data/text.jsonl]}\n  code: {train: [data/code.jsonl]}\n"
        "stages:\n  - {name: gate, train: gate, steps: 2, examples_per_category: 2, learning_rate: 1e-3}\n"
        "max_length: 256\ndevice: cpu\noutput: out\n"
    )
    return file


@pytest.mark.parametrize("name", preset_names())
def test_init_writes_a_recipe_and_its_schema(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "mine.yaml"
    assert run("init", str(file), "--preset", name) == 0
    text = file.read_text()
    assert text.splitlines()[0] == "# yaml-language-server: $schema=recipe.schema.json"
    assert text == preset(name, "mine.yaml")
    assert "THIS_FILE" not in text
    assert load_recipe(file).name
    assert json.loads((file.parent / "recipe.schema.json").read_text()) == json_schema()
    assert "mine.yaml" in capsys.readouterr().out


def test_init_overwrites_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fuse.yaml"
    file.write_text("mine")
    assert run("init", str(file)) == 2
    assert file.read_text() == "mine"
    assert "fuse.yaml exists already; name another file, or pass --overwrite" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert run("init", str(file), "--overwrite") == 0
    assert file.read_text() == preset("demo")


def test_init_in_a_folder_takes_a_name_of_its_own(tmp_path: Path) -> None:
    assert run("init", str(tmp_path)) == 0
    assert (tmp_path / "fuse.yaml").is_file()


def test_init_leaves_a_foreign_schema_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "recipe.schema.json"
    for foreign in ('{"title": "cakes"}', "not json", "[]"):
        schema.write_text(foreign)
        assert run("init", str(tmp_path / "fuse.yaml"), "--overwrite") == 0
        assert schema.read_text() == foreign
        assert "left alone" in capsys.readouterr().out.replace("\n", " ")
    schema.write_text('{"title": "UltraFuser recipe"}')
    assert run("init", str(tmp_path / "fuse.yaml"), "--overwrite") == 0
    assert json.loads(schema.read_text()) == json_schema()


def test_init_prints_the_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", "--schema") == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    assert list(tmp_path.iterdir()) == []


def test_init_knows_its_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", str(tmp_path / "x.yaml"), "--preset", "dmo") == 2
    assert "did you mean 'demo'?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_check_of_a_good_recipe(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(recipe_file)) == 0
    shown = capsys.readouterr().out
    assert "ready to train (0 warnings)" in shown
    for part in ("LlamaForCausalLM", "9,328", "apache-2.0", "memory, estimated", "✓ output"):
        assert part in shown


def test_check_of_a_bad_recipe(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe_file.write_text(
        recipe_file.read_text().replace("models/code", "models/cod").replace("data/text", "data/txt")
    )
    assert run("check", str(recipe_file)) == 1
    shown = capsys.readouterr().out
    assert "✗ specialists.code.source" in shown
    assert "✗ data.text.train[0]" in shown
    assert "2 errors, 0 warnings: mend the errors first" in shown
    assert "Traceback" not in shown


def test_check_of_a_misspelt_recipe(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("steps: 2", "step: 2"))
    assert run("check", str(recipe_file)) == 1
    assert "✗ line 9: stages[0].step: no such key; did you mean 'steps'?" in capsys.readouterr().out


def test_check_as_json(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(recipe_file), "--json", "-") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert {"findings", "specialists", "memory", "data", "licence"} <= set(told)
    assert {finding["level"] for finding in told["findings"]} == {"ok"}
    recipe_file.write_text("name: [")
    assert run("check", str(recipe_file), "--json", str(tmp_path / "report.json")) == 1
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["ok"] is False
    assert told["findings"][0]["line"] == 1


def test_check_respects_overwrite(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text('{"model_type": "ultrafuser"}')
    assert run("check", str(recipe_file)) == 1
    assert run("check", str(recipe_file), "--overwrite") == 0


def test_check_writes_nothing(recipe_file: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in recipe_file.parent.rglob("*"))
    assert run("check", str(recipe_file)) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in recipe_file.parent.rglob("*")) == before


def test_the_light_layers_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, ultrafuser.recipe, ultrafuser.templates, ultrafuser.lookup, ultrafuser.preflight, "
        "ultrafuser.recipe.presets, ultrafuser.cli.recipe_verbs\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
