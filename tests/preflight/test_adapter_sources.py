"""Adapters in a recipe: checked against their base by headers alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ultrafuser.preflight import Report, check
from ultrafuser.preflight.facts import Facts, read_facts
from ultrafuser.preflight.memory import held_bytes, sharing, stage_memory
from ultrafuser.preflight.sources import locate
from ultrafuser.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, specialist_folders: dict[str, Path], make_adapter: Callable[..., Path]
) -> dict[str, Path]:
    """A base and two adapters on it."""
    root = tmp_path_factory.mktemp("adapters")
    base = specialist_folders["text"]
    make_adapter(root / "text", base, 1, r=2)
    return {"base": base, "text": root / "text", "math": make_adapter(root / "math", base, 2)}


@pytest.fixture
def make(make_recipe: MakeRecipe, places: dict[str, Path]) -> Callable[..., Recipe]:
    """`make(**changes of the specialists' fields)`: text and math as adapters, and the base alone as code."""

    def recipe(*, options: dict[str, Any] | None = None, **changes: dict[str, Any]) -> Recipe:
        specialists = {name: {"source": str(places[name])} for name in ("text", "math")}
        specialists["code"] = {"source": str(places["base"])}
        for name, change in changes.items():
            specialists[name] |= change
        return make_recipe(specialists=specialists, **(options or {}))

    return recipe


def troubles(report: Report) -> list[str]:
    return [f"{f.level} {f}" for f in report.findings if f.level == "error" or "licence" not in f.message]


def errors(report: Report) -> list[str]:
    return [str(f) for f in report.errors]


def facts_of(recipe: Recipe) -> list[Facts]:
    return [read_facts(name, locate(spec, lambda source: source)) for name, spec in recipe.specialists.items()]


def test_adapters_on_one_base_are_told_as_a_group(make: Any, places: dict[str, Path]) -> None:
    report = check(make())
    assert errors(report) == []
    base = places["base"].name
    lines = [str(f) for f in report.findings if f.field == "specialists" and "adapters on" in f.message]
    parameters = report.specialists["code"]["parameters"]
    assert lines == [
        f"specialists: text, math: adapters on {base}, rank 2 and 4; code: the base itself; the base once: 0 MiB"
    ]
    (group,) = report.groups
    assert group["specialists"] == ["text", "math", "code"]
    assert group["base_bytes"] == 4 * parameters
    found = report.specialists["math"]["adapter"]
    assert (found["rank"], found["scalings"], found["layers"]) == (4, [2.0], 14)
    assert report.specialists["math"]["base"] == base
    assert sum("trained on this base (hash" in f.message for f in report.findings) == 2
    json.dumps(report.to_json())


def test_the_base_is_counted_once(make: Any) -> None:
    recipe = make()
    text, math, code = facts = facts_of(recipe)
    assert [[one.name for one in group] for group in sharing(facts)] == [["text", "math", "code"]]
    gate, both = recipe.stages
    adapters = text.adapter.parameters + math.adapter.parameters  # type: ignore[union-attr]
    assert stage_memory(recipe, gate, facts, 64)["weights"] == 4 * (code.parameters + adapters)
    alone = stage_memory(recipe, both, [code], 64)
    together = stage_memory(recipe, both, facts, 64)
    assert together["weights"] == 4 * (code.parameters + adapters)
    assert together["optimiser"] == 12 * adapters + alone["optimiser"] - 12 * code.parameters
    assert 2.9 * alone["activations"] < 3 * together["activations"]


def test_quantised_weights_are_counted_smaller(make: Any) -> None:
    recipe = make(**{name: {"quantisation": "int8"} for name in ("text", "math", "code")})
    (code,) = [one for one in facts_of(recipe) if one.name == "code"]
    plain = held_bytes(make(), [code])
    packed = held_bytes(recipe, [code])
    assert plain is not None
    assert packed is not None
    assert plain - packed == pytest.approx(code.linear * (4 - 1.02), abs=1)


def test_one_copy_has_one_format_and_one_place(make: Any) -> None:
    found = errors(check(make(text={"quantisation": "int8"}, math={"quantisation": "int4", "dtype": "bfloat16"})))
    assert [line.split(": ")[0] for line in found] == ["specialists.math.dtype", "specialists.math.quantisation"]
    assert "int4, but text has int8 and both share one copy of" in found[1]


def test_another_base_is_named_by_its_hash(
    make: Any, specialist_folders: dict[str, Path], tmp_path: Path, make_specialist_folder: Callable[..., Path]
) -> None:
    other = make_specialist_folder(tmp_path / "other", 9)
    report = check(make(text={"base": str(other), "template": "plain"}))
    (found,) = errors(report)
    assert found.startswith("specialists.text.source: was trained on another base: it records the hash ")
    assert "other has " in found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 1}, "changes layers that its base other does not have, first model.layers.1."),
        (
            {"hidden": 32},
            "model.layers.0.mlp.down_proj takes 64 and gives 32 there, 32 and 16 in the adapter (14 of its 14 layers)",
        ),
    ],
)
def test_layers_that_are_not_there_or_do_not_fit(
    make: Any, tmp_path: Path, make_specialist_folder: Callable[..., Path], options: dict[str, int], words: str
) -> None:
    other = make_specialist_folder(tmp_path / "other", 9, **options)
    (found,) = errors(check(make(text={"base": str(other)})))
    assert found.startswith("specialists.text.source: ")
    assert words in found
    assert found.endswith("; name the base that it was trained on")


def test_a_gguf_file_is_a_base(
    make: Any, tmp_path: Path, make_gguf: Callable[..., Path], chat_templates: dict[str, str]
) -> None:
    pytest.importorskip("gguf")
    file = make_gguf(tmp_path / "base.gguf", seed=1, template=chat_templates["text"])
    report = check(make(text={"base": str(file)}, math={"base": str(file)}, code={"source": str(file)}))
    assert {str(f).partition(": it records")[0] for f in report.errors} == {
        f"specialists.{name}.source: was trained on another base" for name in ("text", "math")
    }
    assert "base.gguf" in next(f.message for f in report.findings if "adapters on" in f.message)


def test_gpt2_keeps_its_weights_turned(tmp_path: Path, make_adapter: Any, make: Any, tiny_tokenizer: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": len(tiny_tokenizer), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=1, bos_token_id=0)).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer.save_pretrained(tmp_path / "gpt2")
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "gpt2", target_modules=["c_attn", "c_fc"])
    assert errors(check(make(text={"source": str(adapter), "template": "plain"}))) == []


def test_an_adapter_on_the_hub(make: Any, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def download(repository: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append(allow_patterns)
        return str(places["text"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub = {"source": "owner/adapter", "revision": "main", "base": str(places["base"])}
    assert errors(check(make(text=hub))) == []
    assert ["adapter_model.safetensors" in patterns for patterns in asked] == [False, True]


def test_quantised_weights_do_not_learn(make: Any, specialist_folders: dict[str, Path]) -> None:
    other = str(specialist_folders["code"])
    (found,) = errors(check(make(code={"source": other, "quantisation": "int8", "template": "plain"})))
    assert found.startswith("stages[1].train: all would change code, whose quantised weights cannot learn")


def test_a_moved_base_has_to_be_named(make: Any, places: dict[str, Path], tmp_path: Path) -> None:
    moved = Path(shutil.copytree(places["text"], tmp_path / "moved"))
    settings = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "/gone/base"}))
    (found,) = errors(check(make(text={"source": str(moved)})))
    assert "names the base '/gone/base', which is not here" in found
    assert errors(check(make(text={"source": str(moved), "base": str(places["base"])}))) == []
    (missing,) = errors(check(make(text={"source": str(moved), "base": str(tmp_path / "no")})))
    assert missing.startswith("specialists.text.base: ")
    assert f"the folder {tmp_path}/no does not exist" in missing
    (adapter,) = errors(check(make(text={"source": str(moved), "base": str(places["math"])})))
    assert "is an adapter itself; name the model it sits on" in adapter
    (complete,) = errors(check(make(code={"base": str(places["base"])})))
    assert "specialists.code.base: " in complete
    assert "is a complete model, not an adapter" in complete


def test_what_cannot_be_stacked_is_told_before_its_base_is_looked_at(make: Any, places: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(places["text"], tmp_path / "dora"))
    settings = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    (found,) = errors(check(make(text={"source": str(copy), "base": "/gone"})))
    assert "has use_dora: true, which cannot be stacked; merge it into its base with PEFT" in found
    (copy / "adapter_model.safetensors").unlink()
    (copy / "adapter_config.json").write_text(json.dumps(settings))
    (found,) = errors(check(make(text={"source": str(copy)})))
    assert "has adapter_config.json but no weights" in found


def test_the_same_adapter_twice(make: Any, places: dict[str, Path]) -> None:
    report = check(make(math={"source": str(places["text"])}))
    (found,) = [str(f) for f in report.warnings if "same adapter" in f.message]
    assert found.startswith("specialists.math.source: is the same adapter as text's")


def test_the_folder_of_an_adapter_brings_template_and_licence(make: Any, places: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(places["text"], tmp_path / "own"))
    for file in places["base"].glob("tokenizer*"):
        shutil.copy(file, copy)
    (copy / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (copy / "chat_template.jinja").write_text("{% for m in messages %}Q{{ m.content }}A{% endfor %}")
    text, math, _ = facts_of(make(text={"source": str(copy)}))
    assert text.tokenizer.chat_template.startswith("{% for m in messages %}Q")
    assert math.tokenizer.chat_template == text.tokenizer.chat_template or math.tokenizer.chat_template
    assert text.licence.ids[0] == "cc-by-4.0"


def test_without_a_recorded_hash_the_base_is_taken_on_trust(
    make: Any, places: dict[str, Path], tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    adapter = make_adapter(tmp_path / "a", places["base"], record=False)
    report = check(make(text={"source": str(adapter)}))
    assert errors(report) == []
    assert any(f"(made for {places['base'].name}): that it is" in f.message for f in report.findings)
