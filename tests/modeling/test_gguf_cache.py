"""The converted copy of a GGUF file: an ordinary folder, the same model, made once, and done without where need be."""

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultrafuser.cli.opening import open_fused
from ultrafuser.files import locked
from ultrafuser.generation.engine import stop_ids
from ultrafuser.gguf import cache_folder, known_copy
from ultrafuser.hashing import content_hash
from ultrafuser.modeling import gguf_cache, open_specialist
from ultrafuser.modeling.specialists import open_tokenizer, resolve

pytest.importorskip("gguf")

IDS = torch.tensor([[5, 17, 60, 200, 33, 8]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for this test."""
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def conversions(monkeypatch):
    """Fields of the openings that had to unpack the file itself."""
    seen, real = [], gguf_cache.open_weights

    def note_and_open(path, config, dtype, field, **options):
        seen.append(field)
        return real(path, config, dtype, field, **options)

    monkeypatch.setattr(gguf_cache, "open_weights", note_and_open)
    return seen


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("tie", [False, True])
def test_the_copy_is_an_ordinary_folder_with_the_same_logits(make_gguf, chat_templates, tmp_path, tie):
    file = make_gguf(tmp_path / "m.gguf", tie=tie, template=chat_templates["code"], end_of_turn="<|im_end|>")
    model = open_specialist(file)
    own = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(own), rtol=0, atol=1e-4)
    folder = known_copy(file)
    assert folder is not None
    assert folder.parent == cache_folder()
    assert content_hash(file).startswith(folder.name)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=0)
    assert plain.generation_config.eos_token_id == [1, 2]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == chat_templates["code"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n---\n")
    assert f"m.gguf, SHA-256 {content_hash(file)}" in card
    again = open_specialist(folder)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_it_is_made_once_and_the_specialist_stays_the_file(tiny_gguf, conversions, tmp_path):
    first = open_fused(str(tiny_gguf), device="cpu")
    second = open_fused(str(tiny_gguf), device="cpu")
    moved = Path(shutil.copy(tiny_gguf, tmp_path / "moved.gguf"))
    third = open_specialist(moved, dtype="bfloat16")
    assert len(conversions) == 1
    assert third.dtype == torch.bfloat16
    assert (third.ultrafuser_origin.path, third.config._name_or_path) == (moved, str(moved))
    torch.testing.assert_close(logits(second.model), logits(first.model), rtol=0, atol=0)
    assert second.model.config.sources == first.model.config.sources
    assert second.model.config.sources[0]["licence"] == "apache-2.0"
    assert stop_ids(second.model, second.tokenizer) == stop_ids(first.model, first.tokenizer)
    assert not list(cache_folder().glob(".*.partial"))


def test_the_tokenizer_out_of_the_copy_is_the_file_s_own(tiny_gguf):
    before = open_tokenizer(resolve(tiny_gguf))
    open_specialist(tiny_gguf)
    after = open_tokenizer(resolve(tiny_gguf))
    assert after is not before
    assert after.get_vocab() == before.get_vocab()
    assert after.chat_template == before.chat_template
    assert after.special_tokens_map == before.special_tokens_map
    assert after.name_or_path == before.name_or_path == "tiny-code.gguf"
    for text in ("the quick brown fox", " def add(a, b):\n    return a + b</s>", "12  plus\t30 é"):
        assert after(text)["input_ids"] == before(text)["input_ids"]


def test_another_file_in_its_place_gets_a_copy_of_its_own(make_gguf, conversions, tmp_path):
    file = make_gguf(tmp_path / "m.gguf", seed=4)
    first = logits(open_specialist(file))
    make_gguf(file, seed=5)
    assert known_copy(file) is None
    assert not torch.equal(logits(open_specialist(file)), first)
    assert len(conversions) == 2


@pytest.mark.parametrize("damage", ["cut", "gone", "format"])
def test_a_damaged_copy_is_made_again(tiny_gguf, conversions, damage):
    expected = logits(open_specialist(tiny_gguf))
    folder = known_copy(tiny_gguf)
    assert folder is not None
    if damage == "cut":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "gone":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "origin.json").write_text(json.dumps({"format": 0}))
    assert known_copy(tiny_gguf) is None
    torch.testing.assert_close(logits(open_specialist(tiny_gguf)), expected, rtol=0, atol=0)
    assert known_copy(tiny_gguf) == folder
    assert len(conversions) == 2


def test_without_room_it_opens_directly_and_says_so_in_one_line(tiny_gguf, make_llama, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.warns(UserWarning, match=r"code: tiny-code\.gguf was opened directly.*no space left") as said:
        model = open_specialist(tiny_gguf, field="code")
    assert "\n" not in str(said[0].message)
    torch.testing.assert_close(logits(model), logits(make_llama(4)), rtol=1e-5, atol=1e-5)
    assert known_copy(tiny_gguf) is None
    assert not [one for one in cache_folder().iterdir() if one.is_dir()]


def test_a_cache_that_cannot_be_written_is_done_without(tiny_gguf, make_llama, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="was opened directly, and will take as long each time"):
        model = open_specialist(tiny_gguf, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert open_tokenizer(resolve(tiny_gguf)).eos_token_id == 1


def test_who_comes_second_waits_for_the_first(tiny_gguf, conversions, cache):
    opened = []
    other = threading.Thread(target=lambda: opened.append(open_specialist(tiny_gguf)))
    with locked(cache / f".{content_hash(tiny_gguf)[:32]}.lock", "taken"):
        other.start()
        other.join(0.5)
        assert other.is_alive()
        assert conversions == []
    other.join(30)
    assert len(opened) == 1
    assert known_copy(tiny_gguf) is not None


def test_incomplete_weights_leave_no_copy(make_gguf, tmp_path):
    file = make_gguf(tmp_path / "partial.gguf", leave_out=["blk.1."])
    with pytest.raises(ValueError, match=r"lacks \d+ weights"):
        open_specialist(file)
    assert known_copy(file) is None
    assert not [one for one in cache_folder().iterdir() if one.is_dir()]


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("ULTRAFUSER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ultrafuser" / "gguf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "ultrafuser" / "gguf"
