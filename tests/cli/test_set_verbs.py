"""`ultrafuser add` and `remove`: the changed model opens and speaks; what cannot be is refused and nothing is lost."""

import json
import shutil

import pytest


def tokens(run, folder, tmp_path, *args):
    target = tmp_path / f"{folder.name}.json"
    result = run("generate", folder, "hi", "--max-new-tokens", "5", "--json", target, *args)
    assert result.exit_code == 0, result.output
    data = json.loads(target.read_text())
    return data["specialists"], data["answers"][0]["tokens"]


def fuse(specialist_folders, chat_templates, tiny_tokenizer, folder, names, gate="token"):
    from ultrafuser.modeling import UltraFuserForCausalLM, save_fused

    sources = {name: specialist_folders[name] for name in names}
    templates = {name: chat_templates[name] for name in names}
    model = UltraFuserForCausalLM.from_specialists(sources, templates=templates, gate=gate, seed=3)
    model.config.gate_training = {"trained": True, "stages": []}
    save_fused(model, tiny_tokenizer, folder)
    return folder


@pytest.fixture
def pair(specialist_folders, chat_templates, tiny_tokenizer, tmp_path):
    return fuse(specialist_folders, chat_templates, tiny_tokenizer, tmp_path / "pair", ["text", "code"])


def test_added_specialist_speaks_as_if_it_had_been_there(
    run, pair, specialist_folders, chat_templates, tiny_tokenizer, tmp_path
):
    target = tmp_path / "add.json"
    out = tmp_path / "trio"
    result = run("add", pair, "math", specialist_folders["math"], "--output", out, "--json", target)
    assert result.exit_code == 0, result.output
    assert "now fuses text, code, math" in result.stdout
    assert "serves the new set as it is" in result.stdout
    assert "untrained" not in result.output
    data = json.loads(target.read_text())
    assert data["gate_change"] == "kept"
    assert data["specialists"] == ["text", "code", "math"]
    whole = fuse(specialist_folders, chat_templates, tiny_tokenizer, tmp_path / "whole", ["text", "code", "math"])
    assert tokens(run, out, tmp_path) == tokens(run, whole, tmp_path)


def test_removed_specialist_leaves_the_rest_as_they_were(run, pair, specialist_folders, tmp_path):
    before = tokens(run, pair, tmp_path)
    run("add", pair, "math", specialist_folders["math"], "--output", tmp_path / "trio")
    result = run("remove", tmp_path / "trio", "math", "--output", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert tokens(run, tmp_path / "again", tmp_path) == before


@pytest.mark.parametrize(("gate", "words"), [("joint", "drawn anew and"), ("constant", "starts at the mean")])
def test_gates_that_need_new_weights_say_so(
    run, specialist_folders, chat_templates, tiny_tokenizer, tmp_path, gate, words
):
    pair = fuse(specialist_folders, chat_templates, tiny_tokenizer, tmp_path / "pair", ["text", "code"], gate)
    out = tmp_path / "trio"
    result = run("add", pair, "math", specialist_folders["math"], "--output", out, "--json", tmp_path / "x.json")
    assert result.exit_code == 0, result.output
    assert words in " ".join(result.stdout.split())
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["gate_trained"] is (gate == "constant")
    assert ("untrained gate" in result.stdout) is (gate == "joint")


def test_template_by_name_file_or_its_own(run, pair, specialist_folders, tmp_path):
    bare = shutil.copytree(specialist_folders["math"], tmp_path / "bare")
    for file in bare.glob("chat_template*"):
        file.unlink()
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    refused = run("add", pair, "math", bare, "--output", tmp_path / "a")
    assert refused.exit_code == 2
    assert "--template: the tokenizer has no chat template of its own" in refused.stderr
    assert not (tmp_path / "a").exists()
    assert "did you mean 'alpaca'?" in run("add", pair, "m", bare, "--template", "alpca", "-o", tmp_path / "a").stderr
    assert run("add", pair, "math", bare, "--template", "alpaca", "--output", tmp_path / "b").exit_code == 0
    saved = json.loads((tmp_path / "b" / "config.json").read_text())
    assert "### Instruction" in saved["templates"][2]


def test_mistakes_are_refused_before_long_work(run, pair, specialist_folders, make_llama, tiny_tokenizer, tmp_path):
    def refused(*args):
        result = run(*args, "--output", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "out").exists()
        return result.stderr

    math = specialist_folders["math"]
    assert "NAME: 'code' is taken (there are text, code)" in refused("add", pair, "code", math)
    assert "SOURCE: the folder nowhere does not exist" in refused("add", pair, "math", "nowhere")
    assert "NAME: 'mat' is not one of code, text" in refused("remove", pair, "mat")
    other = tmp_path / "other"
    make_llama(5, vocab=200).save_pretrained(other)
    tiny_tokenizer.save_pretrained(other)
    assert "200 rows" in refused("add", pair, "small", other, "--template", "plain")
    assert "already holds a trained model" in run("add", pair, "math", math, "--output", pair).stderr


def test_tokenizer_of_equal_size_but_other_tokens_is_refused(run, pair, specialist_folders, tmp_path):
    other = shutil.copytree(specialist_folders["math"], tmp_path / "other")
    file = other / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    vocab = data["model"]["vocab"]
    a, b = list(vocab)[10], list(vocab)[11]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    file.write_text(json.dumps(data), encoding="utf-8")
    result = run("add", pair, "math", other, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "vocabulary differs" in result.stderr


def test_last_specialist_stays(run, pair, tmp_path):
    run("remove", pair, "code", "--output", tmp_path / "one")
    result = run("remove", tmp_path / "one", "text", "--output", tmp_path / "none")
    assert result.exit_code == 2
    assert "the only specialist left cannot be removed" in result.stderr


def test_overwrite_in_place_only_when_asked(run, pair, specialist_folders, tmp_path):
    before = (pair / "config.json").read_text()
    assert run("remove", pair, "code", "--output", pair).exit_code == 2
    assert (pair / "config.json").read_text() == before
    assert run("remove", pair, "code", "--output", pair, "--overwrite").exit_code == 0
    assert tokens(run, pair, tmp_path)[0] == ["text"]


def test_an_adapter_is_added_to_the_base_that_is_there(run, pair, specialist_folders, chat_templates, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from ultrafuser.modeling import UltraFuserForCausalLM

    base = shutil.copytree(specialist_folders["text"], tmp_path / "base")
    plain = AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(plain, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    moved = base.rename(tmp_path / "moved")
    arguments = ("add", pair, "math", tmp_path / "adapter", "--output", tmp_path / "trio", "--template", "plain")
    result = run(*arguments)
    assert result.exit_code != 0
    assert "which is not here" in result.output
    result = run(*arguments, "--base", moved)
    assert result.exit_code == 0, result.output
    config = UltraFuserForCausalLM.from_pretrained(tmp_path / "trio").config
    assert [(group.name, group.members) for group in config.groups] == [("shared0", (2, 0)), ("specialist1", (1,))]
