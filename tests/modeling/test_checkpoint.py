"""Saving, loading and publishing, both forms."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from safetensors import safe_open

from ultrafuser.modeling import GATES, UltraFuserForCausalLM, checkpoint, content_hash, save_fused, storage


def _same(first, second) -> None:
    """Bit for bit the same weights, formats, and tied or untied heads."""
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
    for a, b in zip(first.specialists, second.specialists, strict=True):
        tied = a.lm_head.weight is a.model.embed_tokens.weight
        assert tied == (b.lm_head.weight is b.model.embed_tokens.weight)


def _load(folder, **options):
    model, report = UltraFuserForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return model


@pytest.fixture(params=list(GATES))
def any_gate(request, specialist_folders, chat_templates):
    return UltraFuserForCausalLM.from_specialists(
        specialist_folders, templates=chat_templates, gate=request.param, seed=9
    )


@pytest.mark.parametrize("gate_only", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip_bit_for_bit(specialist_folders, chat_templates, tmp_path, dtype, gate_only):
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, templates=chat_templates, dtype=dtype, seed=4)
    assert model.dtype == dtype
    assert model.gate.inner.weight.dtype == torch.float32
    assert [s.config.tie_word_embeddings for s in model.specialists] == [False, True, False]
    model.save_pretrained(tmp_path / "a", gate_only=gate_only)
    again = _load(tmp_path / "a")
    _same(model, again)
    theirs = again.config.to_diff_dict()
    assert theirs == model.config.to_diff_dict() | {"architectures": theirs["architectures"]}
    again.save_pretrained(tmp_path / "b", gate_only=gate_only)
    _same(model, _load(tmp_path / "b"))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.parametrize("gate_only", [False, True])
def test_every_gate_round_trips(any_gate, tmp_path, gate_only):
    any_gate.save_pretrained(tmp_path / "a", gate_only=gate_only)
    _same(any_gate, _load(tmp_path / "a"))


def test_other_number_format_at_load(fused_model, tmp_path):
    fused_model.save_pretrained(tmp_path / "a")
    model = _load(tmp_path / "a", dtype=torch.bfloat16)
    assert {p.dtype for p in model.specialist(0).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.gate.parameters()} == {torch.float32}
    assert torch.equal(model.gate.inner.weight, fused_model.gate.inner.weight)


def test_attention_of_choice_reaches_every_specialist(fused_model, tmp_path):
    fused_model.save_pretrained(tmp_path / "a")
    fused_model.save_pretrained(tmp_path / "g", gate_only=False)
    assert {s.config._attn_implementation for s in fused_model.specialists} == {"sdpa"}
    eager = _load(tmp_path / "a", attn_implementation="eager")
    assert {s.config._attn_implementation for s in eager.specialists} == {"eager"}
    ids = torch.tensor([[5, 6, 7]])
    assert (eager(input_ids=ids).logits - fused_model(input_ids=ids).logits).abs().max() < 1e-5
    eager.set_attn_implementation("sdpa")
    assert {s.config._attn_implementation for s in eager.specialists} == {"sdpa"}


def test_shards(fused_model, tmp_path):
    fused_model.save_pretrained(tmp_path / "a", max_shard_size="30KB")
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 2
    _same(fused_model, _load(tmp_path / "a"))
    before = content_hash(tmp_path / "a")
    fused_model.save_pretrained(tmp_path / "a")  # over it: the old shards must go
    assert [path.name for path in (tmp_path / "a").glob("*.safetensors*")] == ["model.safetensors"]
    assert content_hash(tmp_path / "a") == before


def test_gate_only_is_small_and_self_contained_is_alone(fused_model, specialist_folders, tmp_path):
    fused_model.save_pretrained(tmp_path / "gate", gate_only=True)
    with safe_open(tmp_path / "gate" / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["gate.inner.bias", "gate.inner.weight", "gate.outer.weight"]
    fused_model.save_pretrained(tmp_path / "whole")
    text = "".join(
        p.read_text(errors="replace") for p in (tmp_path / "whole").iterdir() if p.suffix in (".json", ".md")
    )
    for folder in specialist_folders.values():
        assert str(folder) not in text
        assert str(folder.parent.name) not in text
        assert content_hash(folder) in text


def test_auto_classes_after_import_ultrafuser(fused_model, tiny_tokenizer, tmp_path):
    save_fused(fused_model, tiny_tokenizer, tmp_path / "a")
    code = f"""
import sys
import ultrafuser
assert "torch" not in sys.modules and "transformers" not in sys.modules
from transformers import AutoConfig, AutoTokenizer
assert type(AutoConfig.from_pretrained({str(tmp_path / "a")!r})).__name__ == "UltraFuserConfig"
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "a")!r})
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / "a")!r})
ids = tokenizer("the quick", return_tensors="pt")
print(type(model).__name__, model.generate(ids["input_ids"], max_new_tokens=4, do_sample=False).tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    ids = tiny_tokenizer("the quick", return_tensors="pt")["input_ids"]
    expected = fused_model.generate(ids, max_new_tokens=4, do_sample=False).tolist()
    assert run.stdout.split("\n")[0] == f"UltraFuserForCausalLM {expected}", run.stderr


def test_device_map_and_auto_class_from_configuration(fused_model, tmp_path):
    from transformers import AutoModelForCausalLM

    for gate_only in (False, True):
        fused_model.save_pretrained(tmp_path / str(gate_only), gate_only=gate_only)
        _same(fused_model, _load(tmp_path / str(gate_only), device_map={"": "cpu"}))
        again = AutoModelForCausalLM.from_pretrained(tmp_path / str(gate_only))
        assert type(again) is UltraFuserForCausalLM
        _same(fused_model, again)
    assert type(AutoModelForCausalLM.from_config(fused_model.config)) is UltraFuserForCausalLM


# ---- the gate's first weights ----


def test_untrained_gate_is_reproducible_and_survives_loading(specialist_folders, tmp_path):
    first, second, other = (UltraFuserForCausalLM.from_specialists(specialist_folders, seed=s) for s in (7, 7, 8))
    assert torch.equal(first.gate.inner.weight, second.gate.inner.weight)
    assert not torch.equal(first.gate.inner.weight, other.gate.inner.weight)
    assert not first.gate_is_trained
    with torch.no_grad():
        first.gate.inner.weight.fill_(0.25)
    first.save_pretrained(tmp_path / "a")
    torch.manual_seed(0)
    again = _load(tmp_path / "a")
    assert (again.gate.inner.weight == 0.25).all()
    assert torch.equal(again.gate.outer.weight, second.gate.outer.weight)
    assert not again.gate_is_trained


def test_global_seed_plays_no_part(specialist_folders):
    torch.manual_seed(1)
    first = UltraFuserForCausalLM.from_specialists(specialist_folders, seed=7)
    state = torch.get_rng_state()
    second = UltraFuserForCausalLM.from_specialists(specialist_folders, seed=7)
    assert torch.equal(first.gate.inner.weight, second.gate.inner.weight)
    assert torch.equal(state, torch.get_rng_state())


def test_model_from_configuration_draws_the_gate_from_its_seed(fused_model):
    torch.manual_seed(123)
    fresh = UltraFuserForCausalLM(fused_model.config)
    with torch.no_grad():
        fused_model.gate.reset_parameters(fused_model.config.gate["seed"])
    assert torch.equal(fresh.gate.inner.weight, fused_model.gate.inner.weight)
    assert torch.equal(fresh.gate.outer.weight, fused_model.gate.outer.weight)
    assert not torch.equal(fresh.specialist0.lm_head.weight, fused_model.specialist0.lm_head.weight)


# ---- gate-only: other specialists are refused ----


def test_changed_specialist_is_refused_with_both_hashes(fused_model, specialist_folders, tmp_path, make_llama):
    fused_model.save_pretrained(tmp_path / "gate", gate_only=True)
    other = tmp_path / "other"
    shutil.copytree(specialist_folders["math"], other)
    _load(tmp_path / "gate", specialist_paths={"math": other})  # a copy is the same specialist
    make_llama(99).save_pretrained(other)
    with pytest.raises(ValueError, match=r"specialists\.math: the weights in") as caught:
        UltraFuserForCausalLM.from_pretrained(tmp_path / "gate", specialist_paths={"math": other})
    assert content_hash(other) in str(caught.value)
    assert content_hash(specialist_folders["math"]) in str(caught.value)


def test_moved_specialists_are_found_beside_the_checkpoint_or_asked_for(
    make_specialist_folder, chat_templates, tmp_path
):
    folders = {n: make_specialist_folder(tmp_path / "one" / n, k) for k, n in enumerate(("text", "code"))}
    model = UltraFuserForCausalLM.from_specialists(folders, templates=["chatml", "alpaca"])
    model.save_pretrained(tmp_path / "one" / "fused", gate_only=True)
    (tmp_path / "one").rename(tmp_path / "two")
    _same(model, _load(tmp_path / "two" / "fused"))
    (tmp_path / "two" / "code").rename(tmp_path / "code")
    with pytest.raises(
        ValueError, match=r"specialists\.code: its weights are not where they were .*looked at .*; .*specialist_paths"
    ):
        UltraFuserForCausalLM.from_pretrained(tmp_path / "two" / "fused")
    _same(model, _load(tmp_path / "two" / "fused", specialist_paths={"code": tmp_path / "code"}))
    with pytest.raises(ValueError, match=r"specialist_paths\.math: no such specialist"):
        UltraFuserForCausalLM.from_pretrained(tmp_path / "two" / "fused", specialist_paths={"math": tmp_path / "code"})


def test_gate_only_would_lose_trained_specialists(fused_model, tmp_path, make_llama):
    with torch.no_grad():
        fused_model.specialist("code").model.norm.weight[0] += 1
    with pytest.raises(ValueError, match=r"specialists\.code: its weights differ .* Save without gate_only"):
        fused_model.save_pretrained(tmp_path / "a", gate_only=True)
    assert not (tmp_path / "a").exists()
    memory = UltraFuserForCausalLM.from_specialists({"a": make_llama(1), "b": make_llama(2)})
    with pytest.raises(ValueError, match=r"specialists\.a: fused from memory .* nothing to point at"):
        memory.save_pretrained(tmp_path / "a", gate_only=True)
    assert list(tmp_path.iterdir()) == []


def test_self_contained_takes_no_specialist_paths(fused_model, specialist_folders, tmp_path):
    fused_model.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=r"specialist_paths: .* is self-contained"):
        UltraFuserForCausalLM.from_pretrained(tmp_path / "a", specialist_paths=specialist_folders)


# ---- bad folders ----


def test_bad_folders_are_named(fused_model, specialist_folders, tmp_path):
    with pytest.raises(ValueError, match=r"model: folder '.*nowhere' does not exist"):
        UltraFuserForCausalLM.from_pretrained(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"is not a fused model"):
        UltraFuserForCausalLM.from_pretrained(specialist_folders["text"])
    fused_model.save_pretrained(tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model: '.*model\.safetensors' is corrupt or cut off"):
        UltraFuserForCausalLM.from_pretrained(tmp_path / "a")


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("failure", ["safetensors", "config"])
def test_full_disk_leaves_earlier_files_alone(fused_model, tiny_tokenizer, tmp_path, monkeypatch, failure):
    from safetensors import SafetensorError

    target = tmp_path / "out"
    save_fused(fused_model, tiny_tokenizer, target)
    before = _snapshot(tmp_path)

    def full(*args, **kwargs):
        if failure == "config":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    name = "transformers.modeling_utils.safe_save_file" if failure == "safetensors" else "json.dumps"
    monkeypatch.setattr(name, full)
    for save in (
        lambda: save_fused(fused_model, tiny_tokenizer, target, overwrite=True),
        lambda: fused_model.save_pretrained(target),
    ):
        with pytest.raises(OSError, match=r"no space left to save .* free some space") as caught:
            save()
        assert caught.value.errno == errno.ENOSPC
        assert str(target) in str(caught.value)
    assert _snapshot(tmp_path) == before


def test_too_little_space_is_seen_before_anything_is_written(fused_model, tmp_path, monkeypatch):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OSError, match=r"it needs about 0\.\d MB and 0\.0 MB are free"):
        fused_model.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_save_are_swept_away(fused_model, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover = tmp_path / f".out.{dead.pid}.partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_text("half")
    alive = tmp_path / f".out.{os.getppid()}.partial"
    alive.mkdir()
    fused_model.save_pretrained(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "out"]


def test_output_that_holds_a_model_is_refused_without_overwrite(fused_model, tiny_tokenizer, tmp_path):
    target = tmp_path / "out"
    (target / "logs").mkdir(parents=True)
    (target / "logs" / "events").write_text("kept")
    save_fused(fused_model, tiny_tokenizer, target)  # a folder with other files is no obstacle
    before = _snapshot(target)
    with torch.no_grad():
        fused_model.gate.inner.bias.add_(1)
    with pytest.raises(ValueError, match=r"already holds a trained model .* --overwrite"):
        save_fused(fused_model, tiny_tokenizer, target)
    assert _snapshot(target) == before
    save_fused(fused_model, tiny_tokenizer, target, overwrite=True)
    _same(fused_model, _load(target))
    assert (target / "logs" / "events").read_text() == "kept"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        save_fused(fused_model, tiny_tokenizer, tmp_path / "file")


def test_tokenizer_gets_the_visible_template(fused_model, tiny_tokenizer, chat_templates, tmp_path):
    from transformers import AutoTokenizer

    save_fused(fused_model, tiny_tokenizer, tmp_path / "a")
    assert AutoTokenizer.from_pretrained(tmp_path / "a").chat_template == chat_templates["text"]
    assert tiny_tokenizer.chat_template is None
    assert _load(tmp_path / "a").config.templates == list(chat_templates.values())


# ---- card and publishing ----


RECIPE = """
name: demo
specialists:
  text: {source: /home/somebody/models/text}
  code: {source: owner/code-model, revision: abc}
  math: {source: "zoo:math"}
data:
  text: {train: [/data/secret/train.jsonl, ../up/more.jsonl]}
"""


def _card(folder: Path) -> tuple[dict, str]:
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def test_card_of_an_untrained_gate(fused_model, tmp_path):
    fused_model.save_pretrained(tmp_path / "a")
    front, body = _card(tmp_path / "a")
    assert front["library_name"] == "transformers"
    assert "The gate is untrained" in body
    assert "seed 3" in body
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert list(recipe["specialists"]) == ["text", "code", "math"]
    assert recipe["gate"] == {"type": "token", "hidden_size": 512}


def test_card_of_a_trained_gate_with_its_recipe(fused_model, tiny_tokenizer, specialist_folders, tmp_path):
    for name, folder in specialist_folders.items():
        assert fused_model.config.sources[["text", "code", "math"].index(name)]["licence"] is None
        del folder
    fused_model.config.gate_training = {
        "trained": True,
        "stages": [
            {"name": "warm-up", "train": "gate", "steps": 400},
            {"name": "both", "train": "all", "steps": 20, "examples_per_category": 8, "learning_rate": 1e-3},
        ],
        "data": {"text": ["/data/secret/train.jsonl"], "code": {"examples": 150, "response_tokens": 9000}},
    }
    save_fused(fused_model, tiny_tokenizer, tmp_path / "a", recipe_yaml=RECIPE)
    _, body = _card(tmp_path / "a")
    assert "The gate is trained" in body
    assert "warm-up: 400 steps, the gate alone learned" in body
    assert (
        "both: 20 steps, gate and specialists learned, 8 examples of each category per step, learning rate 0.001"
        in body
    )
    assert "code: 150 examples (9000 response tokens); text: train.jsonl" in body
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe["specialists"]["text"]["source"] == "text"
    assert recipe["specialists"]["code"]["source"] == "owner/code-model"
    assert recipe["specialists"]["math"]["source"] == "zoo:math"
    assert recipe["data"]["text"]["train"] == ["train.jsonl", "more.jsonl"]
    for text in ("somebody", "secret", str(tmp_path)):
        assert text not in body
    again = _load(tmp_path / "a")
    assert again.gate_is_trained
    again.save_pretrained(tmp_path / "b")  # the recipe stays with the model
    assert _card(tmp_path / "b")[1] == body


def test_licence_of_the_specialists(make_specialist_folder, tmp_path):
    folder = make_specialist_folder(tmp_path / "s", 1)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n")
    model = UltraFuserForCausalLM.from_specialists({"a": folder})
    model.save_pretrained(tmp_path / "a")
    front, body = _card(tmp_path / "a")
    assert front["license"] == "apache-2.0"
    assert "| a | LlamaForCausalLM | a local model | apache-2.0 |" in body


class _Hub:
    """Takes the place of the Hub's API."""

    uploads: ClassVar[list[dict]] = []

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, **options):
        from types import SimpleNamespace

        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **options):
        _Hub.uploads.append({"repo_id": repo_id, "files": _snapshot(Path(folder_path)), "options": options})
        return "done"


def test_push_to_hub_uploads_our_card_and_no_local_path(fused_model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "HfApi", _Hub)
    _Hub.uploads.clear()
    fused_model.config.gate_training = {"trained": True, "data": {"text": "/data/secret/train.jsonl"}, "stages": []}
    assert fused_model.push_to_hub("fused", commit_message="first", tags=["mine"], private=True) == "done"
    (upload,) = _Hub.uploads
    assert upload["repo_id"] == "me/fused"
    assert upload["options"] == {"commit_message": "first"}
    assert {"README.md", "config.json", "model.safetensors"} <= set(upload["files"])
    card = upload["files"]["README.md"].decode()
    assert 'from_pretrained("me/fused")' in card
    assert "mine" in yaml.safe_load(card.split("---\n")[1])["tags"]
    for name, content in upload["files"].items():
        assert b"secret" not in content, name
        assert str(tmp_path.parent).encode() not in content, name
    assert json.loads(upload["files"]["config.json"])["gate_training"]["data"] == {"text": "train.jsonl"}
    with pytest.raises(ValueError, match=r"specialists\.text: lies in a local folder"):
        fused_model.push_to_hub("fused", gate_only=True)
    with pytest.raises(TypeError, match="unknown argument 'comit_message'"):
        fused_model.push_to_hub("fused", comit_message="x")
    fused_model.save_pretrained(tmp_path / "kept", push_to_hub=True, repo_id="other")
    assert _Hub.uploads[-1]["repo_id"] == "me/other"
