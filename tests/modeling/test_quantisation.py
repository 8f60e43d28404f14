"""Weights as 8-bit and 4-bit integers, held against quantising by hand and against plain Transformers models."""

import sys

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from ultrafuser.modeling import UltraFuserForCausalLM, specialists
from ultrafuser.modeling.quantisation import GROUP, quantisation_of, quantise, stored_parts
from ultrafuser.training.parameters import fingerprint_of_weights, select_trainable

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
FORMAT = {"int8": torch.float32, "int4": torch.bfloat16}


@pytest.fixture(scope="module")
def folders(make_specialist_folder, tmp_path_factory):
    """Two specialists that int4 fits (hidden size 32), one with a tied head."""
    root = tmp_path_factory.mktemp("wide")
    return {
        "text": make_specialist_folder(root / "text", 1, hidden=32),
        "code": make_specialist_folder(root / "code", 2, hidden=32, tie=True),
    }


@pytest.fixture(params=["int8", "int4"])
def kind(request):
    return request.param


def _step(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Distance of two neighbouring values: symmetric with one scale per row, or 16 values for every 32 weights."""
    if kind == "int8":
        return weight.abs().amax(dim=1, keepdim=True) / 127.5
    parts = weight.reshape(weight.shape[0], -1, GROUP)
    return ((parts.amax(-1) - parts.amin(-1)) / 15).repeat_interleave(GROUP, dim=1)


def _read_back(layer: nn.Linear) -> torch.Tensor:
    """The weight that a quantised layer computes with, by its products with unit vectors."""
    return nn.functional.linear(torch.eye(layer.in_features, dtype=layer.weight.dtype), layer.weight).t()


def _bytes(model) -> int:
    return sum(part.numel() * part.element_size() for p in model.parameters() for part in stored_parts(p))


@pytest.mark.parametrize("name", ["text", "code"])
def test_weights_are_rounded_and_logits_are_those_of_a_plain_model_with_the_rounded_weights(folders, kind, name):
    model = UltraFuserForCausalLM.from_specialists({name: folders[name]}, quantisation={name: kind})
    assert model.dtype == FORMAT[kind]
    assert model.config.sources[0]["quantisation"] == kind
    plain = AutoModelForCausalLM.from_pretrained(folders[name], dtype=FORMAT[kind])
    with torch.no_grad():
        whole = plain(IDS).logits.float()
        rounded = 0
        for key, part in plain.model.named_modules():
            if isinstance(part, nn.Linear):
                found = _read_back(model.specialist(0).model.get_submodule(key))
                off = (found.float() - part.weight.float()).abs() / _step(part.weight.float(), kind)
                assert off.max() < (0.51 if kind == "int8" else 0.7), key  # int4's own scales are bfloat16
                part.weight.copy_(found)
                rounded += 1
        assert rounded == 14
        ours, theirs = model(input_ids=IDS).logits, plain(IDS).logits.float()
    size = whole.norm()
    assert (ours - theirs).norm() < {"int8": 1e-5, "int4": 0.03}[kind] * size
    assert 0 < (ours - whole).norm() < {"int8": 0.05, "int4": 0.6}[kind] * size  # random weights, as rough as can be


def test_weights_shrink_and_head_embeddings_and_gate_do_not(folders, kind):
    full = UltraFuserForCausalLM.from_specialists(folders, dtype=FORMAT[kind])
    model = UltraFuserForCausalLM.from_specialists(folders, quantisation=dict.fromkeys(folders, kind))
    linear = outputs = 0
    for part in (part for s in full.specialists for part in s.model.modules() if isinstance(part, nn.Linear)):
        linear += part.weight.numel()
        outputs += part.weight.shape[0]
    kept = _bytes(full) - linear * FORMAT[kind].itemsize
    # int8: a byte, a float32 scale and a zero point of one byte per row; int4: half a byte, two bfloat16 per 32 weights
    packed = linear + 5 * outputs if kind == "int8" else linear // 2 + linear // GROUP * 4
    assert _bytes(model) == kept + packed
    for ours, theirs in zip(model.specialists, full.specialists, strict=True):
        assert quantisation_of(ours) == kind
        assert type(ours.lm_head.weight) is type(ours.model.embed_tokens.weight) is nn.Parameter
        assert torch.equal(ours.lm_head.weight, theirs.lm_head.weight)
    assert model.specialist("code").lm_head.weight is model.specialist("code").model.embed_tokens.weight
    assert {p.dtype for p in model.gate.parameters()} == {torch.float32}


def test_forced_gate_speaks_as_the_quantised_specialist_itself(folders, kind):
    model = UltraFuserForCausalLM.from_specialists(folders, quantisation={"code": kind})
    assert [quantisation_of(s) for s in model.specialists] == [None, kind]
    alone = specialists.open_specialist(folders["code"], quantisation=kind)
    steps = {"max_new_tokens": 12, "do_sample": False}
    spoken = model.generate(IDS, gate_weights=torch.tensor([0.0, 1.0]), **steps)
    assert spoken.tolist() == alone.generate(IDS, attention_mask=torch.ones_like(IDS), **steps).tolist()
    from ultrafuser.generation.packing import pack

    assert pack(alone) == (1 if kind == "int8" else 0)  # the head; integers are not laid out anew


def test_gate_only_remembers_it_and_whole_checkpoints_are_refused(folders, kind, tmp_path):
    model = UltraFuserForCausalLM.from_specialists(folders, quantisation={"text": kind})
    with pytest.raises(ValueError, match=r"specialists\.text: quantised weights are not saved.*--gate-only"):
        model.save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    model.save_pretrained(tmp_path / "gate", gate_only=True)
    again = UltraFuserForCausalLM.from_pretrained(tmp_path / "gate")
    assert [quantisation_of(s) for s in again.specialists] == [kind, None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert fingerprint_of_weights(again) == fingerprint_of_weights(model)
    again.save_pretrained(tmp_path / "again", gate_only=True)
    full = UltraFuserForCausalLM.from_pretrained(tmp_path / "gate", quantisation={"text": None})
    assert [quantisation_of(s) for s in full.specialists] == [None, None]
    assert fingerprint_of_weights(full)["specialist0"] != fingerprint_of_weights(model)["specialist0"]


def test_whole_checkpoint_is_quantised_after_loading(folders, kind, tmp_path):
    UltraFuserForCausalLM.from_specialists(folders).save_pretrained(tmp_path / "whole")
    model = UltraFuserForCausalLM.from_pretrained(tmp_path / "whole", quantisation={"code": kind})
    assert [quantisation_of(s) for s in model.specialists] == [None, kind]
    twin = UltraFuserForCausalLM.from_specialists(folders, quantisation={"code": kind})
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, twin(input_ids=IDS).logits)


def test_gate_learns_on_quantised_specialists_which_cannot(folders, kind):
    model = UltraFuserForCausalLM.from_specialists(folders, quantisation={"text": kind})
    with pytest.raises(ValueError, match=rf"train: 'all' would change specialists\.text, whose weights are {kind}"):
        select_trainable(model, "all")
    select_trainable(model, "gate")
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert model.gate.inner.weight.grad.abs().sum() > 0
    assert all(p.grad is None for s in model.specialists for p in s.parameters())


def test_layers_that_do_not_fit_int4_stay(make_llama):
    model = make_llama(3, hidden=32, intermediate_size=40, dtype=torch.bfloat16)
    quantise(model, "int4", "x")
    layer = model.model.layers[0]
    assert type(layer.mlp.up_proj.weight) is nn.Parameter  # 40 outputs
    assert type(layer.self_attn.q_proj.weight) is not nn.Parameter
    with pytest.raises(ValueError, match=r"x: its weights are int4 already; open it anew for int8"):
        quantise(model, "int8", "x")


# ---- refused before anything is loaded ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantisation": {"text": "int3"}}, r"specialists\.text\.quantisation: .*'int3'.*int8"),
        ({"quantisation": {"txt": "int8"}}, r"quantisation\.txt: no such specialist; .* did you mean 'text'"),
        (
            {"quantisation": {"text": "int4"}, "dtype": "float32"},
            r"specialists\.text\.quantisation: int4 computes in bfloat16, but the number format is float32",
        ),
        ({"dtype": {"text": "float7"}}, r"specialists\.text\.dtype: 'float7' is no number format"),
        ({"devices": {"code": "cuda:93"}}, r"specialists\.code\.device: 'cuda:93' is not on this machine"),
        ({"devices": {"mind": "cpu"}}, r"devices\.mind: no such specialist"),
    ],
)
def test_bad_settings(folders, monkeypatch, options, message):
    monkeypatch.setattr(specialists, "_open_folder", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(ValueError, match=message):
        UltraFuserForCausalLM.from_specialists(folders, **options)


def test_without_torchao(folders, monkeypatch):
    monkeypatch.setattr(specialists, "_open_folder", lambda *a, **k: pytest.fail("opened"))
    monkeypatch.setattr("ultrafuser.modeling.quantisation.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"int8 needs the package torchao: pip install 'ultrafuser\[quantisation\]'"):
        UltraFuserForCausalLM.from_specialists(folders, quantisation={"text": "int8"})
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torchao.prototype.quantization.int4", None)
    with pytest.raises(ValueError, match=r"int4 on a CPU needs torchao 0\.18"):
        UltraFuserForCausalLM.from_specialists(folders, quantisation={"text": "int4"})


def test_models_that_cannot_be_quantised(make_llama, folders):
    narrow = make_llama(1, hidden=24, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"cannot be int4: none of its 14 linear layers takes int4"):
        quantise(narrow, "int4", "x")
    conv = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel cannot be int8: it has no linear layers"):
        quantise(conv, "int8", "x")
    with pytest.raises(ValueError, match=r"specialists\.text\.quantisation: int8 is for specialists opened from files"):
        UltraFuserForCausalLM.from_specialists({"text": make_llama(1)}, quantisation={"text": "int8"})


def test_own_number_format_for_each(folders):
    with pytest.warns(UserWarning, match=r"text bfloat16, code float32\); all are held as float32"):
        model = UltraFuserForCausalLM.from_specialists(folders, dtype={"text": "bfloat16", "code": "float32"})
    assert model.dtype == torch.float32
    weight = model.specialist("text").model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, weight.bfloat16().float())
