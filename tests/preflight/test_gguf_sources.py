"""GGUF files in a recipe: checked by their header alone, and the same findings as for folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ultrafuser.preflight import Report, check
from ultrafuser.recipe import Recipe, SpecialistSource

pytest.importorskip("gguf")

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache: nothing comes out of a converted copy."""
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make(
    make_recipe: MakeRecipe, make_gguf: Callable[..., Path], chat_templates: dict[str, str], tmp_path: Path
) -> Any:
    """`make(**options of the file code.gguf)`: a recipe of two GGUF files beside it."""

    def recipe(**options: Any) -> Recipe:
        make_gguf(tmp_path / "text.gguf", seed=1, template=chat_templates["text"])
        make_gguf(tmp_path / "code.gguf", **{"template": chat_templates["code"], **options})
        return make_recipe(specialists={name: {"source": f"./{name}.gguf"} for name in ("text", "code")})

    return recipe


def troubles(report: Report) -> list[str]:
    return [f"{f.level} {f}" for f in report.findings if f.level != "ok"]


def test_good_files_pass_and_nothing_is_converted(
    make: Any, make_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make()
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("opened it"))
    report = check(recipe)
    assert troubles(report) == []
    found = report.specialists["code"]
    model = make_llama(4)
    assert found["architecture"] == "LlamaForCausalLM"
    assert (found["hidden_size"], found["layers"], found["context"]) == (16, 2, 512)
    assert found["parameters"] == model.num_parameters()
    assert (found["dtype"], found["weight_bytes"]) == ("float32", 4 * model.num_parameters())
    assert (found["eos_token"], found["eos_token_id"]) == ("</s>", 1)
    assert found["licence"] == ["apache-2.0"]
    assert not (tmp_path / "cache").exists()


def test_a_converted_copy_gives_the_same_findings(make: Any, tmp_path: Path) -> None:
    from ultrafuser.modeling import open_specialist

    recipe = make(end_of_turn="<|im_end|>")
    before = check(recipe)
    open_specialist(tmp_path / "code.gguf")
    after = check(recipe)
    assert after.specialists == before.specialists
    assert troubles(after) == troubles(before)


def test_tied_weights_are_counted_once(make: Any, make_llama: Any) -> None:
    report = check(make(tie=True))
    assert report.specialists["code"]["tied"] is True
    assert report.specialists["code"]["parameters"] == make_llama(4, tie=True).num_parameters()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": None}, "specialists.code.template: the tokenizer has no chat template"),
        ({"architecture": "clipper"}, "holds architecture 'clipper', which this version of Transformers cannot open"),
        ({"leave_out": ["blk.1."]}, "code.gguf says 2 layers, the weights of layer 1 are missing"),
    ],
)
def test_files_that_will_not_do(make: Any, options: dict[str, Any], message: str) -> None:
    (found,) = troubles(check(make(**options)))
    assert found.startswith("error specialists.code.")
    assert message in found, found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-40], "is cut off"),
        (lambda raw: raw[:900], "is corrupt or cut off in its header"),
        (lambda raw: b"PK" + raw[2:], "is no GGUF file"),
    ],
)
def test_damaged_files(make: Any, tmp_path: Path, damage: Any, message: str) -> None:
    recipe = make()
    file = tmp_path / "code.gguf"
    file.write_bytes(damage(file.read_bytes()))
    (found,) = troubles(check(recipe))
    assert found.startswith(f"error specialists.code.source: '{file}': '{file}' {message}"), found


def test_other_mistakes(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = troubles(check(recipe))
    assert len(found) == 2
    assert "needs the package gguf" in found[0]
    assert "pip install 'ultrafuser[gguf]'" in found[0]
    monkeypatch.undo()
    (tmp_path / "code.gguf").unlink()
    (missing,) = troubles(check(recipe))
    assert f"the file {tmp_path}/code.gguf does not exist" in missing
    with pytest.raises(ValueError, match=r"revision: 'main' given for the file 'code\.gguf'; remove it"):
        SpecialistSource(source="code.gguf", revision="main")
