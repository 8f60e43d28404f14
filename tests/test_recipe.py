import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ultrafuser.recipe import (
    GateConfig,
    Recipe,
    RecipeError,
    SpecialistSource,
    StageConfig,
    json_schema,
    load_recipe,
    parse_recipe,
)
from ultrafuser.recipe.errors import inner_models
from ultrafuser.recipe.presets import preset, preset_names

GOOD = """\
name: trio
specialists:
  text: {source: "zoo:text"}
  code: {source: models/code, template: templates/code.jinja}
  hub: {source: owner/name, revision: main}
data:
  text: {train: [text.jsonl, "zoo-sample:text/train"], validation_fraction: 0.1}
  code: {train: ["hub:owner/data:train"], heldout: [/elsewhere/code.jsonl]}
stages:
  - {name: gate, train: gate, steps: 40, learning_rate: 1e-3, examples_per_category: 8}
  - {name: all, train: all, steps: 80, learning_rate: 5e-4, examples_per_category: 8, accumulation: 4}
output: runs/trio
"""


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_relative_paths_start_from_the_recipes_folder(tmp_path: Path) -> None:
    file = tmp_path / "fuse.yaml"
    file.write_text(GOOD)
    recipe = load_recipe(file)
    assert recipe.output == str(tmp_path / "runs/trio")
    assert [one.source for one in recipe.specialists.values()] == [
        "zoo:text",
        str(tmp_path / "models/code"),
        "owner/name",
    ]
    assert recipe.specialists["code"].template == str(tmp_path / "templates/code.jinja")
    assert recipe.data["text"].train == [str(tmp_path / "text.jsonl"), "zoo-sample:text/train"]
    assert recipe.data["code"].train == ["hub:owner/data:train"]
    assert recipe.data["code"].heldout == ["/elsewhere/code.jsonl"]
    assert recipe.folder == tmp_path


def test_the_base_of_an_adapter_is_a_path_like_any_other(tmp_path: Path) -> None:
    lines = ["a: {source: adapters/a, base: models/base, device: 'cuda:1', quantisation: int4}"]
    lines += ["b: {source: adapters/b, base: owner/name, base_revision: main}", "c: {source: x, base: 'zoo:text'}"]
    text = changed('  text: {source: "zoo:text"}\n', "".join(f"  {line}\n" for line in lines))
    recipe = parse_recipe(text, folder=tmp_path)
    assert [recipe.specialists[name].base for name in "abc"] == [
        str(tmp_path / "models/base"),
        "owner/name",
        "zoo:text",
    ]
    assert (recipe.specialists["a"].device, recipe.specialists["a"].quantisation) == ("cuda:1", "int4")
    assert str(tmp_path) not in recipe.dump_yaml(public=True)
    assert parse_recipe(recipe.dump_yaml(), folder=tmp_path) == recipe


def test_numbers_and_words_are_read_as_editors_read_them() -> None:
    recipe = parse_recipe(changed("name: trio", "name: no"))
    assert recipe.name == "no"
    assert recipe.stages[0].learning_rate == 0.001


def test_a_dumped_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = parse_recipe(GOOD, folder=tmp_path)
    assert parse_recipe(recipe.dump_yaml(), folder=tmp_path) == recipe
    assert str(tmp_path) not in recipe.dump_yaml()


def test_a_public_dump_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    recipe = parse_recipe(GOOD, folder=tmp_path)
    assert "/elsewhere" in recipe.dump_yaml()
    text = recipe.dump_yaml(public=True)
    assert "/elsewhere" not in text
    assert str(tmp_path) not in text
    assert parse_recipe(text, folder=tmp_path).data["code"].heldout == [str(tmp_path / "code.jsonl")]


def test_defaults_are_the_papers() -> None:
    recipe = parse_recipe(GOOD[: GOOD.index("stages:")])
    gate, both = recipe.stages
    assert (gate.train, gate.steps, gate.examples_per_category, gate.learning_rate) == ("gate", 400, 64, 2e-5)
    assert (both.train, both.examples_per_category, both.learning_rate) == ("all", 32, 2e-5)
    assert gate.schedule == both.schedule == "cosine"
    assert (recipe.gate.type, recipe.gate.hidden_size, recipe.fusion.rule) == ("token", 512, "logits")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("source: models", "sorce: models", "line 4: specialists.code.sorce: no such key; did you mean 'source'?"),
        ("steps: 40", "step: 40", "line 10: stages[0].step: no such key; did you mean 'steps'?"),
        ("output:", "outptu:", "line 12: outptu: no such key; did you mean 'output'?"),
        (
            "name: trio",
            "name: trio\nlearning_rate: 1",
            "line 2: learning_rate: no such key here; 'learning_rate' belongs in",
        ),
        ("name: trio", "name: trio\nlearning_rat: 1", "'learning_rate' exists in stages[]"),
        (
            "train: gate",
            "train: gates",
            "line 10: stages[0].train: 'gates' is not one of gate, all, specialists; did you",
        ),
        (
            "name: trio",
            "name: trio\ngate: {type: tokn}",
            "line 2: gate.type: 'tokn' is not one of token, joint, evidence, constant, answer; did",
        ),
        ("name: trio", "name: trio\nfusion: {rule: logit}", "fusion.rule: 'logit' is not one of logits, probabilities"),
        (
            "name: trio",
            "name: trio\nfusion: {top_k: 4}",
            "fusion.top_k: 4 specialists asked for, but there are 3 (text, code, hub)",
        ),
        (
            "name: trio",
            "name: trio\ntokenizer: txt",
            "tokenizer: 'txt' is not one of the specialists text, code, hub; did you",
        ),
        ("name: trio", "name: my trio", "line 1: name: 'my trio' is not a name"),
        ("  text: {source", "  1: {source", "line 2: specialists: 1 is not a name"),
        (
            "steps: 40",
            "steps: '40'",
            "line 10: stages[0].steps: '40' is text, a whole number is needed; write it without",
        ),
        ("steps: 40", "steps: 40.5", "stages[0].steps: 40.5 is a number, a whole number is needed"),
        ("steps: 40", "steps: yes", "stages[0].steps: 'yes' is text, a whole number is needed"),
        ("steps: 40", "steps: 0", "stages[0].steps: 0 is out of range; it must be at least 1"),
        ("steps: 40", "steps: null", "stages[0].steps: null is nothing, a whole number is needed"),
        ("1e-3", "-1e-3", "stages[0].learning_rate: -0.001 is out of range; it must be greater than 0.0"),
        ("1e-3", ".inf", "stages[0].learning_rate: inf is not a finite number"),
        ("1e-3", "1e-3x", "stages[0].learning_rate: '1e-3x' is text, a number is needed"),
        (
            "accumulation: 4",
            "accumulation: 3",
            "line 11: stages[1].accumulation: 3 does not divide examples_per_category (8); 2",
        ),
        (
            "steps: 80",
            "steps: 80, warmup_steps: 80",
            "stages[1].warmup_steps: 80 leaves nothing of the stage's 80 steps",
        ),
        ("name: all", "name: gate", "stages[1].name: 'gate' is the name of an earlier stage too"),
        (
            '[text.jsonl, "zoo-sample:text/train"]',
            "text.jsonl",
            "data.text.train: 'text.jsonl' is text, a list is needed; write",
        ),
        ('[text.jsonl, "zoo-sample:text/train"]', "[]", "data.text.train: [] is empty; Conversations to learn from"),
        (
            '{source: "zoo:text"}',
            "zoo:text",
            "specialists.text: 'zoo:text' is text, a mapping (key: value) is needed; write",
        ),
        ('source: "zoo:text"', "template: x", "line 3: specialists.text.source: missing; A folder"),
        ("validation_fraction: 0.1", "validation_fraction: 1.5", "data.text.validation_fraction: 1.5 is out of range"),
        (
            "validation_fraction: 0.1",
            "validation_fraction: 0.1, validation: [x]",
            "data.text: validation and validation_fraction",
        ),
        ("source: owner/name", "source: /a/b/c", "specialists.hub.source: '/a/b/c' is not the id of a Hub model"),
        (
            '"zoo:text"}',
            '"zoo:text", revision: main}',
            "specialists.text.revision: 'main' given for 'zoo:text', which has none",
        ),
        (
            "models/code,",
            "models/code, base_revision: main,",
            "line 4: specialists.code.base_revision: 'main' given without a base; name the base too",
        ),
        (
            "models/code,",
            "code.gguf, base: models/text,",
            "line 4: specialists.code.base: 'models/text' given, but 'code.gguf' is a complete model, not an adapter",
        ),
        (
            '"zoo:text"}',
            '"zoo:text", base: x}',
            "specialists.text.base: 'x' given, but 'zoo:text' is a complete model",
        ),
        (
            "models/code,",
            "models/code, base: base.gguf, base_revision: main,",
            "specialists.code.base_revision: 'main' given for the base 'base.gguf', which has none; remove it",
        ),
        (
            "models/code,",
            "models/code, base: /a/b/c, base_revision: main,",
            "specialists.code.base: '/a/b/c' is not the id of a Hub model (owner/name)",
        ),
        ("models/code,", "models/code, quantisation: int2,", "code.quantisation: 'int2' is not one of int8, int4"),
        ("models/code,", "models/code, device: auto,", "specialists.code.device: 'auto' is not understood; Where this"),
        ("models/code,", "models/code, base: '',", "specialists.code.base: '' is empty"),
        ("output: runs/trio", "device: gpu", "device: 'gpu' is not understood; auto, cpu, mps, cuda"),
        (
            "output: runs/trio",
            "dtype: bf16",
            "dtype: 'bf16' is not one of auto, float32, bfloat16, float16; did you mean",
        ),
        ("output: runs/trio", "output: ''", "output: '' is empty"),
        ("output: runs/trio", "max_length: 2", "max_length: 2 is out of range; it must be at least 8"),
        ("output: runs/trio", "seed: -1", "seed: -1 is out of range"),
    ],
)
def test_a_mistake_names_line_field_value_and_fix(old: str, new: str, expected: str) -> None:
    (found,) = problems(changed(old, new))
    assert expected in found


def test_all_mistakes_are_told_at_once() -> None:
    text = GOOD.replace("steps: 40", "steps: x").replace("train: all", "train: al").replace("name: trio", "nam: trio")
    found = problems(text)
    assert [line.split(": ")[1] for line in found] == ["nam", "stages[0].steps", "stages[1].train"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t[: t.index("data:")] + t[t.index("stages:") :], "data: there are stages to train but no data"),
        (lambda t: t[: t.index("  code: {train")] + t[t.index("stages:") :], "data: 'text' is the only domain"),
        (
            lambda t: t[: t.index("specialists:")] + "specialists: {}\n" + t[t.index("data:") :],
            "specialists: {} is empty",
        ),
    ],
)
def test_missing_parts_are_named(change: Any, expected: str) -> None:
    assert expected in problems(change(GOOD))[0]


def test_a_recipe_without_stages_needs_no_data() -> None:
    assert parse_recipe("name: x\nspecialists: {a: {source: b}}\nstages: []\n").data == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "line 1: not valid YAML, column 8: while parsing a flow node"),
        ("name: x\n\tseed: 1\n", "line 2: not valid YAML, column 1"),
        (
            "name: x\nseed: 1\nname: y\n",
            "line 3: not valid YAML, column 1: the key 'name' stands twice (first on line 1)",
        ),
        ("a:\n  b: 1\n  b: 2\n", "line 3: not valid YAML, column 3: the key 'b' stands twice"),
        ("name: *nowhere\n", "found undefined alias 'nowhere'"),
        ("a: &x [*x]\n", "an alias points at what it is part of"),
        ("? [a, b]\n: 1\n", "a key must be a single word"),
        ("name: !!python/object:os.system x\n", "could not determine a constructor"),
        ("name: \x01\n", "the character with code 1 is not allowed"),
        ("- name\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("name: x\n---\nname: y\n", "expected a single document"),
    ],
)
def test_text_that_is_not_yaml_names_line_and_column(text: str, expected: str) -> None:
    (found,) = problems(text)
    assert expected in found


def test_a_missing_file_is_told_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nope\.yaml does not exist; `ultrafuser init"):
        load_recipe(tmp_path / "nope.yaml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(RecipeError, match=r"latin.yaml: not UTF-8 text \(byte 6\)"):
        load_recipe(tmp_path / "latin.yaml")


def test_construction_in_python_gives_the_same_errors() -> None:
    with pytest.raises(
        RecipeError, match=r"^gate.type: 'tokn' is not one of token, joint, evidence, constant, answer; did you mean"
    ):
        Recipe(name="x", specialists={"a": {"source": "b"}}, stages=[], gate={"type": "tokn"})


def test_a_recipe_cannot_be_changed_unchecked() -> None:
    recipe = parse_recipe(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_a_constant_gate_has_no_width() -> None:
    assert GateConfig(type="constant").model_dump() == {"type": "constant"}
    assert GateConfig().model_dump() == {"type": "token", "hidden_size": 512}
    assert (
        "gate.hidden_size: 64 given, but a constant gate has no inner layer; remove it"
        in problems(changed("name: trio", "name: trio\ngate: {type: constant, hidden_size: 64}"))[0]
    )


def test_only_a_token_gate_projects() -> None:
    assert GateConfig(projection_size=8).model_dump() == {"type": "token", "hidden_size": 512, "projection_size": 8}
    text = changed("name: trio", "name: trio\ngate: {type: joint, projection_size: 8}")
    assert "gate.projection_size: 8 given, but a joint gate projects nothing; remove it" in problems(text)[0]


def test_only_a_revision_makes_a_hub_model(tmp_path: Path) -> None:
    assert SpecialistSource(source="owner/name", revision="main").is_hub
    assert not SpecialistSource(source="owner/name").is_hub


def test_names_are_those_of_the_tables() -> None:
    """A row added to GATES or FUSION_RULES has to be added to the recipe, and the other way round."""
    from typing import get_args

    from ultrafuser.modeling.fusion import FUSION_RULES
    from ultrafuser.modeling.gate import GATES
    from ultrafuser.recipe import FusionConfig
    from ultrafuser.training.parameters import TRAINABLE

    assert set(get_args(GateConfig.model_fields["type"].annotation)) == set(GATES)
    assert set(get_args(FusionConfig.model_fields["rule"].annotation)) == set(FUSION_RULES)
    assert set(get_args(StageConfig.model_fields["train"].annotation)) == set(TRAINABLE)


def test_the_schema_describes_every_field_and_forbids_others() -> None:
    schema = json_schema()
    for part in [schema, *schema["$defs"].values()]:
        assert part["additionalProperties"] is False
        for name, field in part["properties"].items():
            assert field.get("description") or "$ref" in field, name
    assert schema["$defs"]["GateConfig"]["properties"]["type"]["enum"] == [
        "token",
        "joint",
        "evidence",
        "constant",
        "answer",
    ]
    json.dumps(schema)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029\ufeff"), max_size=20),
    st.sampled_from(
        ["1e-3", "no", "~", "0x1F", "1_000", "12:30", "2024-07-26", "null", "true", "- a", "a: b", "#x", ""]
    ),
)


@given(
    data=st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    )
)
@settings(max_examples=150, deadline=None)
def test_what_is_dumped_is_read_back(data: Any) -> None:
    from ultrafuser.recipe.yaml_text import dump, parse

    assert parse(dump({"key": data}))[0] == {"key": data}


@given(text=st.text(max_size=60))
@example(text="~0")
@example(text="a\\0b")
@example(text="?")
@example(text="1: 2")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_whatever_ends_in_a_traceback(text: str) -> None:
    for whole in (text, GOOD.replace("zoo:text", text), GOOD[: len(text) * 5] + text):
        with suppress(RecipeError):
            parse_recipe(whole)


@given(
    path=st.sampled_from(
        ["name", "seed", "gate", "stages", "specialists", "data", "output", "max_length", "fusion", "dtype"]
    ),
    value=st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=2),
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_value_anywhere_is_accepted_or_named(path: str, value: Any) -> None:
    data = {**yaml.safe_load(GOOD.replace("1e-3", "0.001").replace("5e-4", "0.0005")), path: value}
    found = []
    try:
        Recipe(**data)
    except RecipeError as error:
        found = error.problems
    assert all(problem.message for problem in found)
    assert all(problem.field.startswith((path, "fusion", "data", "tokenizer")) for problem in found)


CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = {
    "adapters": "adapters.yaml",
    "demo": "tiny.yaml",
    "gpu": "single-gpu.yaml",
    "paper": "paper-13b.yaml",
    "tokenizers": "tokenizers.yaml",
}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_valid_recipe_and_stands_in_configs(name: str) -> None:
    """To mend: `ultrafuser init configs/FILE --preset NAME --overwrite`."""
    recipe = parse_recipe(preset(name))
    assert len(recipe.specialists) >= 2
    assert set(SHIPPED) == set(preset_names())
    assert (CONFIGS / SHIPPED[name]).read_text(encoding="utf-8") == preset(name, SHIPPED[name])


def test_the_schema_file_is_in_step_with_the_models() -> None:
    """To mend: `ultrafuser init --schema > configs/recipe.schema.json`."""
    assert json.loads((CONFIGS / "recipe.schema.json").read_text(encoding="utf-8")) == json_schema()


def test_the_papers_recipe_has_the_papers_numbers() -> None:
    recipe = parse_recipe(preset("paper"))
    gate, both = recipe.stages
    assert (gate.train, gate.steps, gate.examples_per_category, gate.learning_rate) == ("gate", 400, 64, 2e-5)
    assert (both.train, both.steps, both.examples_per_category, both.learning_rate) == ("all", 5000, 32, 2e-5)
    assert {one.template for one in recipe.specialists.values()} == {"ultralm", "codellama", "wizardmath"}
    assert recipe.fusion.rule == "logits"


def test_an_unknown_preset_names_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"--preset: 'dmo' is not one of adapters, demo, gpu, paper, tokenizers; did you mean 'demo'\?"
    ):
        preset("dmo")


def key_table() -> str:
    """Every key of a recipe as Markdown, from the models themselves."""
    lines = ["| key | default | what it is |", "|---|---|---|"]

    def visit(model: Any, where: str) -> None:
        for name, field in model.model_fields.items():
            path = f"{where}.{name}" if where else name
            inner = inner_models(field.annotation)
            default = "required" if field.is_required() else ""
            if not inner and not field.is_required():
                default = f"`{json.dumps(field.get_default(call_default_factory=True))}`"
            lines.append(f"| `{path}` | {default} | {field.description} |")
            for one, suffix in inner:
                visit(one, path + suffix)

    visit(Recipe, "")
    return "\n".join(lines)


def test_the_page_lists_every_key_as_it_is() -> None:
    """To mend: put what this prints between the marks of docs/recipe.md."""
    page = (CONFIGS.parent / "docs" / "recipe.md").read_text(encoding="utf-8")
    table = page.partition("<!-- keys: begin -->\n")[2].partition("\n<!-- keys: end -->")[0]
    print(key_table())
    assert table == key_table()
