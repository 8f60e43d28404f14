"""Bad recipes one by one: each gives one finding that names field, value and fix."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ultrafuser.preflight import PreflightError, Report, check, check_file
from ultrafuser.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
Make = Callable[..., Path]


def troubles(report: Report) -> list[str]:
    return [f"{f.level} {f}" for f in report.findings if f.level != "ok"]


def only(report: Report, level: str, *parts: str) -> None:
    """Exactly one finding is not ok, and it says all of `parts`."""
    found = troubles(report)
    assert len(found) == 1, found
    assert found[0].startswith(level), found
    for part in parts:
        assert part in found[0], (part, found[0])


def edit_json(file: Path, **changes: Any) -> None:
    data = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def test_a_good_recipe_passes_without_a_warning(make_recipe: MakeRecipe) -> None:
    report = check(make_recipe())
    assert troubles(report) == []
    assert report.ok
    report.raise_if_errors()
    facts = report.to_json()
    assert facts["specialists"]["text"]["parameters"] == 258 * 16 + 16 + 2 * (4 * 256 + 3 * 512 + 32)
    assert facts["specialists"]["text"]["dtype"] == "float16"
    assert facts["data"]["code"]["train"] == 8
    assert set(facts["memory"]["stages"]) == {"gate", "all"}
    assert facts["licence"]["combinable"] is True
    json.dumps(facts)


def test_errors_are_raised_together(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(specialists={"text": {"source": "no"}, "code": {"source": "nor"}})
    with pytest.raises(PreflightError) as caught:
        check(recipe).raise_if_errors()
    assert str(caught.value).splitlines()[0] == "2 errors in the recipe"
    assert f"specialists.text.source: '{tmp_path}/no': the folder {tmp_path}/no does not exist" in str(caught.value)


def test_mistakes_in_the_file_are_findings_too(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nspecialists: {a: {source: b}}\nstages: []\ngate: {type: tokn}\n")
    report = check_file(tmp_path / "bad.yaml")
    (finding,) = report.findings
    assert (finding.level, finding.field, finding.line) == ("error", "gate.type", 4)
    assert check_file(tmp_path / "none.yaml").errors[0].field == "recipe"


# --- specialists -----------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_told_as_a_folder_without_asking_the_hub(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any, **__: Any) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", ask)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", ask)
    recipe = make_recipe(specialists={"text": {"source": "models/text"}, "code": {"source": "models/cod"}})
    report = check(recipe)
    missing = [f for f in report.errors if "does not exist" in f.message]
    assert [f.field for f in missing] == ["specialists.code.source"]
    assert "correct the path" in missing[0].fix


def test_a_file_and_an_empty_folder_are_not_models(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    (tmp_path / "models/text/config.json").unlink()
    only(check(recipe), "error", "specialists.text.source", "has no config.json (it holds README.md")
    shutil.rmtree(tmp_path / "models/text")
    (tmp_path / "models/text").write_text("")
    only(check(recipe), "error", "specialists.text.source", "is a file, not a folder")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "Transformers has none of type 't5'"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "its architecture is BertForMaskedLM"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "its architecture is LlamaForSequenceClassification"),
        ({"architectures": ["LlamaModel"]}, "class LlamaForCausalLM"),
        ({"model_type": "ultrafuser", "architectures": ["UltraFuserForCausalLM"]}, "is itself a fused model"),
        ({"model_type": None}, "config.json has no model_type"),
        ({"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "needs code of its own"),
    ],
)
def test_what_is_not_a_causal_language_model_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    recipe = make_recipe()
    edit_json(tmp_path / "models/code/config.json", **changes)
    only(check(recipe), "error", "specialists.code.source", expected)


def test_broken_json_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    for file in ("config.json", "tokenizer.json"):
        whole = (tmp_path / "models/code" / file).read_text()
        (tmp_path / "models/code" / file).write_text(whole[:40])
        only(check(recipe), "error", "specialists.code.source", "cannot be read")
        (tmp_path / "models/code" / file).write_text(whole)
    edit_json(tmp_path / "models/code/config.json", hidden_size="wide")
    only(check(recipe), "error", "specialists.code.source", "is not a llama configuration")


def test_corrupt_weights_are_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, file = make_recipe(), tmp_path / "models/text/model.safetensors"
    whole = file.read_bytes()
    for damaged, expected in (
        (whole[:-100], "is cut short: 100 of"),
        (whole[:30], "is cut short: its header alone"),
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (whole + b"xx", "2 bytes too many"),
        (whole.replace(b'"F16"', b'"F32"', 1), "its shape needs another number"),
        (whole[:20] + b"\xff" + whole[21:], "its header cannot be read"),
    ):
        file.write_bytes(damaged)
        only(check(recipe), "error", "specialists.text.source", "cannot be read", expected)
    file.unlink()
    only(check(recipe), "error", "specialists.text.source", "holds a configuration but no weights")


def test_weights_that_do_not_fit_the_configuration_are_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, file = make_recipe(), tmp_path / "models/text/model.safetensors"
    whole = load_file(file)
    save_file({name: tensor for name, tensor in whole.items() if ".layers.1." not in name}, file)
    only(
        check(recipe),
        "error",
        "specialists.text.source",
        "config.json says 2 layers, the weights of layer 1 are missing",
    )
    save_file({**whole, "model.embed_tokens.weight": np.zeros((250, 16), np.float16)}, file)
    only(check(recipe), "error", "config.json says 258 rows of vocabulary, the weights have 250")


def test_missing_shards_are_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, folder = make_recipe(), tmp_path / "models/text"
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert troubles(check(recipe)) == []
    (folder / "model-2.safetensors").unlink()
    only(check(recipe), "error", "1 of 2 weight files are missing: model-2.safetensors")


def test_pickled_weights_are_not_opened(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, folder = make_recipe(), tmp_path / "models/text"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = troubles(check(recipe))
    assert len(found) == 2
    assert "weights are pickled (pytorch_model.bin)" in found[0]
    assert "memory not estimated" in found[1]


def test_an_unknown_shipped_model_is_told_by_the_resolver(make_recipe: MakeRecipe) -> None:
    def resolve(source: str) -> str:
        if source == "zoo:txt":
            raise ValueError("unknown zoo model 'txt'; choose one of: text, code")
        return source

    recipe = make_recipe(specialists={"text": {"source": "zoo:txt"}, "code": {"source": "models/code"}})
    only(check(recipe, resolve=resolve), "error", "specialists.text.source: 'zoo:txt': unknown zoo model")


def test_one_shared_gate_takes_several_widths(make_recipe: MakeRecipe, make_model: Make, tmp_path: Path) -> None:
    recipe = make_recipe()
    make_model(tmp_path / "models/code", hidden_size=32)
    report = check(recipe)
    assert troubles(report) == []
    said = [one.message for one in report.findings if one.field == "gate.type"]
    assert said == ["hidden sizes differ (text 16, code 32): the gate learns a projection to 16 for the others"]
    assert troubles(check(make_recipe(gate={"type": "joint"}))) == []


# --- vocabularies ----------------------------------------------------------------------------------------------------


def vocabulary_of(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return found


def test_equal_size_but_other_tokens_shows_the_first_difference(
    make_recipe: MakeRecipe, make_model: Make, tmp_path: Path
) -> None:
    recipe = make_recipe()
    tokens = list(vocabulary_of(tmp_path / "models/text"))
    first, second = tokens[40], tokens[41]
    tokens[40], tokens[41] = second, first
    make_model(tmp_path / "models/code", vocabulary={token: i for i, token in enumerate(tokens)})
    report = check(recipe)
    only(
        report,
        "error",
        "specialists.code.source",
        "of equal size but 2 other tokens",
        f"id 40: {second!r} here, {first!r}",
    )


def test_a_larger_vocabulary_than_there_are_rows_is_refused(
    make_recipe: MakeRecipe, make_model: Make, tmp_path: Path
) -> None:
    recipe = make_recipe()
    tokens = [*vocabulary_of(tmp_path / "models/text"), "Ġextra", "Ġmore"]
    make_model(tmp_path / "models/text", vocabulary={token: i for i, token in enumerate(tokens)})
    found = troubles(check(recipe))
    assert "specialists.code.source: text's tokenizer has 260 tokens, this model only 258 rows" in found[0]
    assert found[0].startswith("error")
    assert "2 tokens of text are unknown to its tokenizer, the first id 258 'Ġextra'" in found[1]
    found = troubles(check(make_recipe(tokenizer="code")))
    assert len(found) == 1
    assert found[0].startswith("warning specialists.text.source: has 2 tokens that code does not have")


def test_padded_rows_are_no_trouble(make_recipe: MakeRecipe, make_model: Make, tmp_path: Path) -> None:
    recipe = make_recipe()
    make_model(tmp_path / "models/code", vocab_size=264)
    report = check(recipe)
    assert troubles(report) == []
    assert any("258 tokens, 258 to 264 rows" in f.message for f in report.findings)


def test_other_merges_over_the_same_tokens_are_noticed(
    make_recipe: MakeRecipe, make_model: Make, tmp_path: Path
) -> None:
    tokens = {token: i for i, token in enumerate([*vocabulary_of(make_model(tmp_path / "one")), "qu"])}
    recipe = make_recipe()
    for name in ("text", "code"):
        make_model(tmp_path / "models" / name, vocabulary=tokens)
    file = tmp_path / "models/code/tokenizer.json"
    data = json.loads(file.read_text())
    data["model"]["merges"] = [["q", "u"]]
    file.write_text(json.dumps(data))
    only(
        check(recipe),
        "warning",
        "specialists.code.source",
        "its tokenizer cuts 'The quick brown",
        "other merges or rules",
    )


def test_end_of_sequence_tokens_are_compared(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, folder = make_recipe(), tmp_path / "models/code"
    edit_json(folder / "config.json", eos_token_id=7)
    only(check(recipe), "warning", "its configuration stops at token 7, its tokenizer's end of sequence is '<eos>' (1)")
    edit_json(folder / "config.json", eos_token_id=0)
    edit_json(folder / "tokenizer_config.json", eos_token="<pad>")
    found = troubles(check(recipe))
    assert any("ends its answers with '<pad>' (0), the fused model with '<eos>' (1)" in line for line in found)
    edit_json(tmp_path / "models/text/tokenizer_config.json", eos_token=None)
    found = troubles(check(recipe))
    assert any(line.startswith("error") and "has no end-of-sequence token" in line for line in found)


# --- templates -------------------------------------------------------------------------------------------------------

ASK = "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}\n"


def with_template(make_recipe: MakeRecipe, template: str) -> Recipe:
    return make_recipe(
        specialists={"text": {"source": "models/text"}, "code": {"source": "models/code", "template": template}}
    )


@pytest.mark.parametrize(
    ("template", "level", "expected"),
    [
        ("chatlm", "error", "'chatlm' is not one of"),
        ("none.jinja", "error", "no file"),
        ("{% if %}", "error", "line 1 is not valid Jinja"),
        (ASK + "{% endif %}{% endfor %}A:", "error", "drops the assistant's"),
        (
            "{% for m in messages if m.role != 'user' %}{{ m.content }}{{ eos_token }}{% endfor %}",
            "error",
            "drops the user's",
        ),
        ("{{ raise_exception('no') }}", "error", "refuses the conversation: no"),
        (
            ASK + "{% else %}{{ m.content }}{% endif %}{% endfor %}",
            "warning",
            "is not the template that the specialist",
        ),
    ],
)
def test_a_template_that_loses_something_is_named(
    make_recipe: MakeRecipe, template: str, level: str, expected: str
) -> None:
    only(check(with_template(make_recipe, template)), level, "specialists.code.template", expected)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no generation prompt"),
        ("{% for m in messages %}{{ m.content }}\n\n{% endfor %}", "marked alike"),
        (
            ASK + "{% else %}A:{{ m.content }}</s>\n{% endif %}{% endfor %}",
            "ends an answer with '</s>', but the tokenizer's end",
        ),
        (
            ASK + "{% else %}A:{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}A:<think>{% endif %}",
            "opens a thought (<think>)",
        ),
        ("chatml", "writes <|im_end|>, <|im_start|>, which the tokenizer does not know as one token"),
    ],
)
def test_a_doubtful_template_is_warned_about(
    make_recipe: MakeRecipe, tmp_path: Path, template: str, expected: str
) -> None:
    recipe = with_template(make_recipe, template)
    edit_json(tmp_path / "models/code/tokenizer_config.json", chat_template=None)
    report = check(recipe)
    assert report.ok
    assert any(expected in line for line in troubles(report)), troubles(report)
    assert all("specialists.code.template" in line for line in troubles(report))


def test_a_template_that_rewrites_history_is_noted(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    rewriting = ASK + "{% else %}{{ 'A:' if loop.last else 'B:' }}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    rewriting += "{% if add_generation_prompt %}A:{% endif %}"
    report = check(with_template(make_recipe, rewriting))
    assert any("differently once more follow" in f.message for f in report.findings)
    report = check(make_recipe())
    assert not any("differently once more follow" in f.message for f in report.findings)


def test_a_missing_template_is_an_error(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    edit_json(tmp_path / "models/code/tokenizer_config.json", chat_template=None)
    only(
        check(recipe),
        "error",
        "specialists.code.template",
        "no chat template of its own; name the one that the specialist",
    )


# --- data ------------------------------------------------------------------------------------------------------------


def test_data_that_is_missing_empty_or_broken_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, file = make_recipe(), tmp_path / "data/text.jsonl"
    whole = file.read_text()
    file.write_text("")
    only(check(recipe), "error", "data.text.train[0]", "holds no record")
    file.write_text(whole + "{oops\n")
    only(check(recipe), "error", "data.text.train[0]", "line 9: not valid JSON")
    file.write_text(whole + '{"foo": 1}\n')
    only(check(recipe), "error", "data.text.train[0]", "line 9", "foo")
    file.unlink()
    only(check(recipe), "error", "data.text.train[0]", "does not exist")


def test_answers_that_the_limit_cuts_off_are_counted(make_recipe: MakeRecipe, make_data: Make, tmp_path: Path) -> None:
    recipe = make_recipe()
    make_data(tmp_path / "data/text.jsonl", count=8, words=80)
    only(check(recipe), "error", "max_length", "100.0% of text is longer than 256 tokens", "nothing of it is left")
    whole = (tmp_path / "data/text.jsonl").read_text()
    make_data(tmp_path / "data/text.jsonl", count=24)
    (tmp_path / "data/text.jsonl").write_text((tmp_path / "data/text.jsonl").read_text() + whole)
    report = check(recipe)
    only(report, "warning", "max_length", "25.0% of text is longer than 256 tokens", "and is dropped")
    assert report.data["text"]["too_long_share"] == 0.25
    only(check(make_recipe(on_too_long="error")), "error", "max_length", "on_too_long is error")


def test_the_shares_counted_agree_with_the_data_set_that_training_builds(
    make_recipe: MakeRecipe, make_data: Make, tmp_path: Path
) -> None:
    from ultrafuser.data import ResponseDataset, load_conversations
    from ultrafuser.preflight.facts import open_tokenizer
    from ultrafuser.templates import load_template

    recipe = make_recipe()
    make_data(tmp_path / "data/text.jsonl", count=8, words=80)
    text = (tmp_path / "data/text.jsonl").read_text()
    make_data(tmp_path / "data/text.jsonl", count=8)
    (tmp_path / "data/text.jsonl").write_text((tmp_path / "data/text.jsonl").read_text() + text)
    tokenizer = open_tokenizer(tmp_path / "models/text")
    found = load_conversations([tmp_path / "data/text.jsonl"], "text")
    built = ResponseDataset.from_conversations(found, [load_template(None, tokenizer)] * 2, tokenizer, max_length=256)
    assert check(recipe).data["text"]["too_long_share"] == built.dropped["text"] / len(found) == 0.5


def test_more_per_batch_than_there_is_repeats(make_recipe: MakeRecipe) -> None:
    stage = {"name": "gate", "train": "gate", "steps": 2, "examples_per_category": 9, "learning_rate": 1e-3}
    found = troubles(check(make_recipe(stages=[stage])))
    assert len(found) == 2
    assert "stages[0].examples_per_category: 9 of text in every batch, but there are 8 in all" in found[0]


def test_validation_is_apart_from_training(make_recipe: MakeRecipe) -> None:
    files = {name: {"train": [f"data/{name}.jsonl"], "validation": [f"data/{name}.jsonl"]} for name in ("text", "code")}
    found = troubles(check(make_recipe(data=files)))
    assert "data.text.validation: 8 of 8 prompts are in the training data too" in found[0]
    shares = {name: {"train": [f"data/{name}.jsonl"], "validation_fraction": 0.01} for name in ("text", "code")}
    found = troubles(check(make_recipe(data=shares)))
    assert "data.text.validation_fraction: 0.01 of 8 conversations leaves none" in found[0]


def test_evaluation_needs_validation_data(make_recipe: MakeRecipe) -> None:
    stage = {
        "name": "gate",
        "train": "gate",
        "steps": 2,
        "examples_per_category": 2,
        "learning_rate": 1e-3,
        "eval_every": 1,
    }
    only(check(make_recipe(stages=[stage])), "error", "stages[0].eval_every: 1, but text, code has no validation data")


def test_hub_data_is_not_downloaded(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr("datasets.load_dataset", load)
    data = {"text": {"train": ["hub:owner/name"]}, "code": {"train": ["data/code.jsonl"]}}
    report = check(make_recipe(data=data))
    assert troubles(report) == []
    assert report.data["text"]["train"] is None


# --- lengths, rates, formats -----------------------------------------------------------------------------------------


def test_contexts_are_kept(make_recipe: MakeRecipe, make_model: Make, make_data: Make, tmp_path: Path) -> None:
    recipe = make_recipe()
    make_model(tmp_path / "models/code", max_position_embeddings=100)
    only(
        check(recipe), "warning", "max_length: 256 is more than the 100 tokens that code was made for", "set it to 100"
    )
    make_data(tmp_path / "data/text.jsonl", words=20)
    only(check(recipe), "error", "max_length", "tokens are kept, but code was made for 100")


def test_the_papers_rate_is_too_small_for_small_models(make_recipe: MakeRecipe) -> None:
    stage = {"name": "gate", "train": "gate", "steps": 400, "examples_per_category": 2}
    only(check(make_recipe(stages=[stage])), "warning", "stages[0].learning_rate: 2e-05 over 400 steps", "about 1e-3")


def test_half_precision_is_not_trained(make_recipe: MakeRecipe) -> None:
    only(check(make_recipe(dtype="float16")), "error", "dtype: text, code in float16 cannot be trained")
    only(check(make_recipe(dtype="auto")), "error", "dtype: text, code in float16")
    assert troubles(check(make_recipe(dtype="bfloat16"))) == []


# --- output ----------------------------------------------------------------------------------------------------------


def test_a_trained_model_is_not_overwritten(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, output = make_recipe(), tmp_path / "out"
    output.mkdir()
    (output / "config.json").write_text(json.dumps({"model_type": "ultrafuser", "gate_training": {"trained": True}}))
    only(check(recipe), "error", "output", "already holds a trained fused model", "--overwrite")
    only(check(recipe, overwrite=True), "warning", "output", "will be replaced")
    (output / "config.json").write_text(json.dumps({"model_type": "ultrafuser"}))
    only(check(recipe), "error", "output", "a fused model with an untrained gate")
    (output / "config.json").unlink()
    (output / "work").mkdir()
    assert troubles(check(recipe)) == []


def test_the_output_is_no_file_and_no_specialist(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output="models/text")
    only(check(recipe), "error", "output", "is the folder of the specialist text")
    found = troubles(check(make_recipe(output="models")))
    assert len(found) == 2
    assert "holds the folder of the specialist text" in found[0]
    (tmp_path / "file").write_text("")
    only(check(make_recipe(output="file")), "error", "output", "is a file")


def test_a_full_disk_is_told_before(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    only(check(make_recipe()), "error", "output: needs 0 MiB of disk", "0 MiB free", "on another disk")


def test_an_output_that_cannot_be_written_is_told(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    only(check(make_recipe()), "error", "output", "cannot be written to")
