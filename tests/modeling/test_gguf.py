"""GGUF files as specialists: the same model and tokenizer as in the folder they were made from, or a clear error."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from ultrafuser.cli.opening import open_fused
from ultrafuser.generation import generate_batch
from ultrafuser.generation.engine import stop_ids
from ultrafuser.gguf import check_file
from ultrafuser.modeling import UltraFuserForCausalLM, content_hash, open_specialist, save_fused
from ultrafuser.modeling.specialists import open_tokenizer, resolve
from ultrafuser.templates import encode_prompt

pytest.importorskip("gguf")

IDS = torch.tensor([[5, 17, 60, 200, 33, 8]])


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("tie", [False, True])
def test_opens_as_the_model_it_was_made_from(make_gguf, make_llama, tmp_path, tie):
    model = open_specialist(make_gguf(tmp_path / "m.gguf", tie=tie))
    expected = make_llama(4, tie=tie)
    assert type(model) is type(expected)
    assert model.dtype == torch.float32
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-5)
    half = open_specialist(tmp_path / "m.gguf", dtype="bfloat16")
    assert half.dtype == torch.bfloat16


def test_its_tokenizer_is_the_one_it_was_made_with(tiny_gguf, tiny_tokenizer, chat_templates):
    tokenizer = open_tokenizer(resolve(tiny_gguf))
    assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    for text in ("the quick brown fox", " def add(a, b):\n    return a + b</s>", "12  plus\t30 é"):
        assert tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert tokenizer.chat_template == chat_templates["code"]


def test_a_file_is_a_model_that_speaks(tiny_gguf, specialist_folders, make_llama, tiny_tokenizer, chat_templates):
    opened = open_fused(str(tiny_gguf), device="cpu")
    assert opened.names == ["tiny-code"]
    assert opened.model.config.templates == [chat_templates["code"]]
    plain = UltraFuserForCausalLM.from_specialists({"m": make_llama(4)}, templates=[chat_templates["code"]])
    talk = [[{"role": "user", "content": "What is 12 plus 30?"}]]
    (found,) = generate_batch(opened.model, opened.tokenizer, talk, max_new_tokens=12)
    (expected,) = generate_batch(plain, tiny_tokenizer, talk, max_new_tokens=12)
    assert found.text == expected.text
    assert len(found.text) > 5


def test_every_token_that_ends_an_answer_is_known(make_gguf, tiny_gguf, tmp_path):
    opened = open_fused(str(tiny_gguf), device="cpu")
    assert stop_ids(opened.model, opened.tokenizer) == [1]
    chatty = make_gguf(tmp_path / "chat.gguf", end_of_turn="<|im_end|>")
    opened = open_fused(str(chatty), device="cpu")
    assert stop_ids(opened.model, opened.tokenizer) == [1, 2]
    assert opened.tokenizer.eos_token_id == 1


def test_without_a_template_it_gets_the_plain_one(make_gguf, tmp_path):
    opened = open_fused(str(make_gguf(tmp_path / "base.gguf")), device="cpu")
    (ids,) = encode_prompt([{"role": "user", "content": "fox"}], opened.model.config.templates, opened.tokenizer)
    assert "fox" in opened.tokenizer.decode(ids)


@pytest.mark.parametrize("opens", [False, True])
def test_a_base_model_is_opened_as_its_tokenizer_opens_texts(make_specialist_folder, tmp_path, opens):
    folder = make_specialist_folder(tmp_path / "base", 3)
    if opens:
        file = folder / "tokenizer.json"
        state = json.loads(file.read_text(encoding="utf-8"))
        begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
        state["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        }
        file.write_text(json.dumps(state), encoding="utf-8")
    opened = open_fused(str(folder), device="cpu")
    (ids,) = encode_prompt([{"role": "user", "content": "fox"}], opened.model.config.templates, opened.tokenizer)
    assert (ids[0] == 0) == opens
    assert ids.count(0) == opens


def test_what_lies_beside_it_is_not_taken_for_its_own(tiny_gguf, make_specialist_folder, make_llama, tmp_path):
    folder = make_specialist_folder(tmp_path / "other", 9, template="{{ 'another' }}", hidden=32)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    beside = Path(shutil.copy(tiny_gguf, folder / "beside.gguf"))
    torch.testing.assert_close(logits(open_specialist(beside)), logits(make_llama(4)), rtol=1e-5, atol=1e-5)
    assert "[INST]" in open_tokenizer(resolve(beside)).chat_template


def test_fused_with_folders_saved_and_opened_again(tiny_gguf, specialist_folders, tiny_tokenizer, tmp_path):
    sources = {"text": specialist_folders["text"], "code": tiny_gguf}
    fused = UltraFuserForCausalLM.from_specialists(sources)
    assert fused.config.sources[1]["licence"] == "apache-2.0"
    for name, options in (("whole", {}), ("gate", {"gate_only": True})):
        save_fused(fused, tiny_tokenizer, tmp_path / name, **options)
        again = UltraFuserForCausalLM.from_pretrained(tmp_path / name)
        torch.testing.assert_close(logits(again), logits(fused), rtol=0, atol=0)
        assert again.config.sources[1]["sha256"] == content_hash(tiny_gguf)
    assert str(tiny_gguf.parent) not in (tmp_path / "whole" / "config.json").read_text(encoding="utf-8")


def test_a_gate_refuses_another_file_in_its_place(tiny_gguf, make_gguf, specialist_folders, tiny_tokenizer, tmp_path):
    mine = Path(shutil.copy(tiny_gguf, tmp_path / "mine.gguf"))
    fused = UltraFuserForCausalLM.from_specialists({"text": specialist_folders["text"], "code": mine})
    save_fused(fused, tiny_tokenizer, tmp_path / "gate", gate_only=True)
    make_gguf(mine, seed=5)
    with pytest.raises(ValueError, match=r"specialists\.code: the weights in .*mine\.gguf' have SHA-256"):
        UltraFuserForCausalLM.from_pretrained(tmp_path / "gate")
    moved = {"code": tiny_gguf}
    again = UltraFuserForCausalLM.from_pretrained(tmp_path / "gate", specialist_paths=moved)
    torch.testing.assert_close(logits(again), logits(fused), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-40], r"is cut off \(\d+ bytes of \d+\); download it again"),
        (lambda raw: raw[: len(raw) // 2], "is cut off"),
        (lambda raw: raw[:900], "is corrupt or cut off in its header"),
        (lambda raw: raw[:10], "is corrupt or cut off in its header"),
        (lambda raw: b"PK" + raw[2:], r"is no GGUF file \(it does not start with GGUF\)"),
        (lambda raw: b"", "is no GGUF file"),
    ],
)
def test_damaged_files_are_named_before_anything_is_loaded(tiny_gguf, tmp_path, damage, message):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damage(tiny_gguf.read_bytes()))
    with pytest.raises(ValueError, match=rf"specialists\.code: '.*broken\.gguf' {message}"):
        open_specialist(broken, field="specialists.code")


def test_other_mistakes_are_named(tiny_gguf, make_gguf, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"MODEL: file '.*none\.gguf' does not exist"):
        open_fused(str(tmp_path / "none.gguf"))
    with pytest.raises(ValueError, match=r"source: file 'owner/none\.gguf' does not exist"):
        open_specialist("owner/none.gguf")
    with pytest.raises(ValueError, match=r"revision 'main' goes with a Hub id, but .* is a file"):
        open_specialist(tiny_gguf, "main")
    with pytest.raises(ValueError, match=r"only: 'cod' is not .*tiny-code"):
        open_fused(str(tiny_gguf), only="cod")
    with pytest.raises(
        ValueError, match=r"source: .* holds architecture 'clipper', which this version of Transformers"
    ):
        open_specialist(make_gguf(tmp_path / "clipper.gguf", architecture="clipper"))
    with pytest.raises(ValueError, match=r"lacks \d+ weights, first 'model\.layers\.1\."):
        open_specialist(make_gguf(tmp_path / "partial.gguf", leave_out=["blk.1."]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="is a GGUF file, which needs the package gguf; pip install"):
        check_file(tiny_gguf, "source")


REAL = Path(os.environ.get("ULTRAFUSER_REAL_MODELS", "")) / "coder-0.5b.gguf"
QWEN_PROMPT = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nReply with the word yes.<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.skipif(
    "ULTRAFUSER_REAL_MODELS" not in os.environ or not REAL.is_file(),
    reason="needs coder-0.5b.gguf in the folder that ULTRAFUSER_REAL_MODELS names",
)
def test_a_real_model_speaks_in_its_own_template_and_stops():
    opened = open_fused(str(REAL), device="cpu")
    talk = [{"role": "user", "content": "Reply with the word yes."}]
    (ids,) = encode_prompt(talk, opened.model.config.templates, opened.tokenizer)
    # As Qwen publishes them: <|im_start|>system, a line break, You are Qwen, created by
    assert ids[:10] == [151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553]
    assert opened.tokenizer.decode(ids) == QWEN_PROMPT
    assert opened.tokenizer("don't 123", add_special_tokens=False)["input_ids"] == [15007, 944, 220, 16, 17, 18]
    assert stop_ids(opened.model, opened.tokenizer) == [151645, 151643]  # <|im_end|>, <|endoftext|>
    (answer,) = generate_batch(opened.model, opened.tokenizer, [talk], max_new_tokens=30)
    assert answer.finished
    assert "yes" in answer.text.lower()
    assert answer.events[-1].token_id == 151645
