"""Opening and joining specialists: what is refused, how it is named, and how fast."""

import json
import shutil
import time
import warnings

import pytest
import torch

from ultrafuser.modeling import UltraFuserForCausalLM, content_hash, open_specialist
from ultrafuser.modeling.specialists import is_folder_like


def _fuse(**sources):
    return UltraFuserForCausalLM.from_specialists(sources)


@pytest.mark.parametrize(
    "source", ["runs/deep/er/text", "./text", "../text", "~/no-such-model", "/no/such/model", "a/"]
)
def test_missing_folder_is_named_at_once_as_a_folder(source):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"specialists\.text: folder '.*' does not exist; check the path"):
        _fuse(text=source)
    assert time.monotonic() - start < 1


def test_two_part_path_is_a_folder_where_its_parent_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_folder_like("runs/text")  # could be a Hub id
    (tmp_path / "runs").mkdir()
    assert is_folder_like("runs/text")
    with pytest.raises(ValueError, match=r"specialists\.text: folder 'runs/text' does not exist"):
        _fuse(text="runs/text")


def test_name_that_is_neither_folder_nor_on_the_hub(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("Cannot reach the Hub")

    monkeypatch.setattr("ultrafuser.modeling.specialists.snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"specialists\.text: 'owner/name' is not a folder here .* as a Hub id"):
        _fuse(text="owner/name")
    with pytest.raises(ValueError, match="check the spelling, or the connection"):
        open_specialist("texxt")


def test_hub_id_is_fetched_once_and_remembered(specialist_folders, tmp_path, monkeypatch):
    commit = tmp_path / "0123456789abcdef"
    shutil.copytree(specialist_folders["text"], commit)
    asked = []

    def fetch(name, *, revision, allow_patterns, **options):
        asked.append((name, revision))
        return str(commit)

    monkeypatch.setattr("ultrafuser.modeling.specialists.snapshot_download", fetch)
    model = UltraFuserForCausalLM.from_specialists({"text": "owner/name"}, revisions={"text": "v1"})
    assert asked == [("owner/name", "v1")]
    assert model.config.sources[0]["id"] == "owner/name"
    assert model.config.sources[0]["revision"] == "0123456789abcdef"
    model.save_pretrained(tmp_path / "gate", gate_only=True)
    assert str(tmp_path) not in (tmp_path / "gate" / "config.json").read_text()
    UltraFuserForCausalLM.from_pretrained(tmp_path / "gate")
    assert asked[-1] == ("owner/name", "0123456789abcdef")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    T5ForConditionalGeneration(
        T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "named"), [("encoder", "BertForMaskedLM"), ("translator", "T5ForConditionalGeneration")]
)
def test_what_is_not_a_causal_model_is_refused(request, kind, named, specialist_folders):
    with pytest.raises(ValueError, match=rf"specialists\.odd: '{named}' is not a causal language model"):
        _fuse(text=specialist_folders["text"], odd=request.getfixturevalue(kind))


def test_model_objects_are_checked_too(encoder, make_llama):
    from transformers import AutoModelForMaskedLM

    with pytest.raises(ValueError, match=r"specialists\.odd: 'BertForMaskedLM' is not a causal"):
        _fuse(odd=AutoModelForMaskedLM.from_pretrained(encoder))
    model = make_llama(1)
    with pytest.raises(ValueError, match=r"specialists\.b: the same model object is given twice"):
        _fuse(a=model, b=model)


def test_headless_model_and_incomplete_weights_are_refused(specialist_folders, make_llama, tmp_path):
    make_llama(1).model.save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="'LlamaModel' is not a causal language model"):
        _fuse(a=tmp_path / "headless")
    from safetensors.torch import load_file, save_file

    shutil.copytree(specialist_folders["text"], tmp_path / "holed")
    weights = load_file(tmp_path / "holed" / "model.safetensors")
    del weights["lm_head.weight"], weights["model.norm.weight"]
    save_file(weights, tmp_path / "holed" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 2 weights, first 'lm_head\.weight'"):
        _fuse(a=tmp_path / "holed")


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _scramble(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)


def _resize(folder):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"intermediate_size": 64}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_cut, r"'.*model\.safetensors' is corrupt or cut off"),
        (_scramble, r"'.*model\.safetensors' is corrupt or cut off"),
        (_resize, r"the weights in '.*' do not load"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json' is not valid JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "nonsense"}'), "model_type 'nonsense'"),
    ],
)
def test_broken_folders_are_named(specialist_folders, tmp_path, harm, message):
    folder = tmp_path / "broken"
    shutil.copytree(specialist_folders["text"], folder)
    harm(folder)
    with pytest.raises(ValueError, match=rf"specialists\.broken: .*{message}"):
        _fuse(text=specialist_folders["text"], broken=folder)


def test_missing_shard_is_named(make_llama, tmp_path):
    make_llama(1).save_pretrained(tmp_path / "a", max_shard_size="10KB")
    shard = sorted((tmp_path / "a").glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=rf"shard '{shard.name}' listed in .* is missing"):
        _fuse(a=tmp_path / "a")


def test_a_file_in_place_of_a_folder_and_a_revision_of_a_folder(specialist_folders, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"specialists\.a: '.*file' is a file"):
        _fuse(a=tmp_path / "file")
    with pytest.raises(ValueError, match="revision 'v1' goes with a Hub id"):
        UltraFuserForCausalLM.from_specialists({"a": specialist_folders["text"]}, revisions={"a": "v1"})


def test_different_vocabularies_are_refused(make_llama):
    with pytest.raises(ValueError, match=r"vocabulary sizes differ \(a 300, b 310\); .* share one tokenizer"):
        _fuse(a=make_llama(1), b=make_llama(2, vocab=310))
    with pytest.raises(ValueError, match="vocab_size: 305 tokens, but the specialists' heads have a 300, b 310 rows"):
        UltraFuserForCausalLM.from_specialists({"a": make_llama(1), "b": make_llama(2, vocab=310)}, vocab_size=305)


@pytest.mark.parametrize("gate", ["joint", "constant"])
def test_gates_that_do_not_share_weights_take_different_widths(make_llama, gate):
    model = UltraFuserForCausalLM.from_specialists({"a": make_llama(1), "b": make_llama(2, hidden=32)}, gate=gate)
    output = model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]]))
    output.loss.backward()
    assert output.gate_weights.shape == (1, 3, 2)
    assert all(parameter.grad is not None for parameter in model.gate.parameters())


def test_padded_rows_never_appear(make_llama, tmp_path):
    """Two heads padded differently, 290 real tokens: the fused logits are those of the first 290 rows."""
    first, second = make_llama(1), make_llama(2, vocab=320)
    model = UltraFuserForCausalLM.from_specialists({"a": first, "b": second}, vocab_size=290)
    assert model.config.vocab_size == 290
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        output = model(input_ids=ids, gate_weights=[0.5, 0.5])
        expected = (first(ids).logits[..., :290] + second(ids).logits[..., :290]) / 2
    assert (output.logits - expected).abs().max() < 1e-5
    assert int(model.generate(ids, max_new_tokens=30, do_sample=True, top_k=0).max()) < 290
    model.save_pretrained(tmp_path / "a")
    again = UltraFuserForCausalLM.from_pretrained(tmp_path / "a")
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert again.specialist("b").lm_head.weight.shape[0] == 320
    loss = model(input_ids=ids, labels=ids, return_logits=False).loss
    assert torch.allclose(loss, model(input_ids=ids, labels=ids).loss, atol=1e-6)


def test_padding_is_read_off_the_tokenizers(make_specialist_folder, tiny_tokenizer, tmp_path):
    real = len(tiny_tokenizer)
    folders = {n: make_specialist_folder(tmp_path / n, k, vocab=real + 4 * k) for k, n in enumerate("abc")}
    model = UltraFuserForCausalLM.from_specialists(folders)
    assert model.config.vocab_size == real
    assert UltraFuserForCausalLM.from_specialists({"c": folders["c"]}).config.vocab_size == real
    small = make_specialist_folder(tmp_path / "small", 9, vocab=real - 1)
    with pytest.raises(ValueError, match=rf"vocab_size: {real} tokens, but the .* a {real}, small {real - 1} rows"):
        _fuse(a=folders["a"], small=small)


def test_tokenizer_of_equal_size_with_other_tokens_is_refused(specialist_folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(specialist_folders["code"], other)
    fields = json.loads((other / "tokenizer.json").read_text())
    vocabulary = fields["model"]["vocab"]
    a, b = (token for token, index in vocabulary.items() if index in (50, 51))
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(fields))
    message = (
        r"specialists\.odd: its tokenizer is not that of text \(300 and 300 tokens, 2 ids differ; the first is 50:"
    )
    with pytest.raises(ValueError, match=message):
        _fuse(text=specialist_folders["text"], odd=other)
    from ultrafuser.modeling import add_specialist

    with pytest.raises(ValueError, match=message):
        add_specialist(_fuse(text=specialist_folders["text"]), "odd", other)


def test_a_fused_model_is_no_specialist(fused_model, tmp_path):
    fused_model.save_pretrained(tmp_path / "fused")
    with pytest.raises(ValueError, match=r"specialists\.a: is itself a fused model"):
        _fuse(a=tmp_path / "fused")


def test_number_formats_are_brought_together_with_a_warning(make_specialist_folder, tmp_path):
    a = make_specialist_folder(tmp_path / "a", 1, dtype=torch.bfloat16)
    b = make_specialist_folder(tmp_path / "b", 2)
    with pytest.warns(UserWarning, match=r"a bfloat16, b float32\); all are held as float32"):
        model = _fuse(a=a, b=b)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = UltraFuserForCausalLM.from_specialists({"a": a, "b": b}, dtype="bfloat16")
        assert model.dtype == torch.bfloat16
        assert _fuse(a=a).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "tokn"}, r"gate\.type: 'tokn' is not one of .*; did you mean 'token'"),
        ({"gate": {"type": "token", "hiden_size": 8}}, r"gate\.hiden_size: .* did you mean 'hidden_size'"),
        ({"gate": {"type": "token", "hidden_size": 0}}, r"gate\.hidden_size: 0 is not a positive"),
        ({"fusion": "logit"}, r"fusion\.rule: 'logit' is not one of .*; did you mean 'logits'"),
        ({"fusion": {"rule": "logits", "topk": 2}}, r"fusion\.topk: unknown option"),
        ({"fusion": {"top_k": 4}}, r"fusion\.top_k: 4 specialists asked for, there are 3"),
        ({"fusion": {"top_k": 0}}, r"fusion\.top_k: 0"),
        ({"templates": {"txt": "chatml"}}, r"templates\.txt: no such specialist; there are text, code, math"),
        ({"templates": ["chatml"]}, "templates: give a mapping or a list with one entry for each of 3"),
        ({"templates": {"text": "chatmll"}}, r"specialists\.text\.template: 'chatmll' is not one of"),
    ],
)
def test_misspelt_settings_are_named(specialist_folders, options, message):
    with pytest.raises(ValueError, match=message):
        UltraFuserForCausalLM.from_specialists(specialist_folders, **options)


def test_no_specialists_and_odd_names():
    with pytest.raises(ValueError, match="specialists: none given"):
        UltraFuserForCausalLM.from_specialists({})
    with pytest.raises(ValueError, match="is not a name"):
        UltraFuserForCausalLM.from_specialists({"": "x"})


def test_specialists_by_name_and_index(fused_model):
    assert fused_model.n_specialists == 3
    assert fused_model.specialist("code") is fused_model.specialist(1) is fused_model.specialist(-2)
    with pytest.raises(ValueError, match=r"'cod' is not one of text, code, math; did you mean 'code'"):
        fused_model.specialist("cod")
    with pytest.raises(ValueError, match="index 3 is out of range; there are 3"):
        fused_model.specialist(3)
    with pytest.raises(ValueError, match="resize each specialist"):
        fused_model.resize_token_embeddings(10)


def test_templates_named_own_or_missing(specialist_folders, chat_templates, make_llama):
    own = UltraFuserForCausalLM.from_specialists(specialist_folders)
    assert own.config.templates == list(chat_templates.values())
    mixed = UltraFuserForCausalLM.from_specialists(specialist_folders, templates={"code": "chatml"})
    assert "<|im_start|>" in mixed.config.templates[1]
    assert mixed.config.templates[2] == chat_templates["math"]
    assert _fuse(a=make_llama(1)).config.templates == [""]


def test_end_of_sequence_comes_from_the_first_specialists_generation_config(make_specialist_folder, tmp_path):
    folder = make_specialist_folder(tmp_path / "a", 1, pad_token_id=None)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [1, 7]}))
    model = _fuse(a=folder)
    assert model.generation_config.eos_token_id == [1, 7]
    assert model.generation_config.pad_token_id == 1
    model.save_pretrained(tmp_path / "f")
    assert UltraFuserForCausalLM.from_pretrained(tmp_path / "f").generation_config.eos_token_id == [1, 7]


def test_content_hash_depends_on_weights_alone(make_llama, tmp_path):
    model = make_llama(1)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "many")
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-3
    model.save_pretrained(tmp_path / "other")
    assert content_hash(tmp_path / "other") != content_hash(tmp_path / "one")
    make_llama(1, dtype=torch.bfloat16).save_pretrained(tmp_path / "narrow")
    assert content_hash(tmp_path / "narrow") != content_hash(tmp_path / "one")
    with pytest.raises(ValueError, match="holds no weights to hash"):
        content_hash(tmp_path)
