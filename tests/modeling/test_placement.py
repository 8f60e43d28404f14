"""Specialists on devices of their own: every path moves what it must, and the numbers are those of one device.

There is no second device here: `made_up_devices` follows where tensors would lie. Nothing below has run on a GPU.
"""

import pytest
import torch
from made_up_devices import Placed, here, made_up_devices, move, place

from ultrafuser.generation import stream
from ultrafuser.modeling import UltraFuserForCausalLM

PROMPTS = [[[5, 6, 7], [8, 9, 10, 11], [12, 13]], [[5, 6], [7, 8, 9], [10, 11, 12, 13]]]
SPREADS = {"first at home": ("cpu", "xla:1", "xla:2"), "first away": ("xla:1", "cpu", "xla:1")}


@pytest.fixture(params=list(SPREADS))
def spread(request):
    return SPREADS[request.param]


def _placed(model, spread):
    for specialist, device in zip(model.specialists, spread, strict=True):
        if device != "cpu":
            place(specialist, device)
    if spread[0] != "cpu":
        place(model.gate, spread[0])
    return model


@pytest.fixture(params=["logits", "probabilities"])
def fused(request, specialist_folders, chat_templates):
    return UltraFuserForCausalLM.from_specialists(
        specialist_folders, templates=chat_templates, fusion=request.param, seed=3
    )


def _move_all(inputs, device):
    return {name: move(tensor, torch.device(device)) for name, tensor in inputs.items()}


def test_generation_form_and_loss(fused, spread):
    inputs = fused.prepare_prompts(PROMPTS)
    labels = inputs["input_ids"].clone()
    with torch.no_grad():
        expected = [fused(**inputs), fused(**inputs, labels=labels), fused(**inputs, gate_weights=[0.2, 0.3, 0.5])]
    _placed(fused, spread)
    with made_up_devices():
        assert fused.device == torch.device(spread[0])
        inputs, labels = _move_all(inputs, spread[0]), move(labels, torch.device(spread[0]))
        found = [fused(**inputs), fused(**inputs, labels=labels), fused(**inputs, gate_weights=[0.2, 0.3, 0.5])]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logits.device == ours.gate_weights.device == torch.device(spread[0])
        assert torch.allclose(here(ours.logits), theirs.logits, atol=1e-5)
        assert torch.allclose(here(ours.gate_weights), theirs.gate_weights, atol=1e-6)
    assert float(here(found[1].loss)) == pytest.approx(float(expected[1].loss), abs=1e-5)


def test_training_form(fused, spread):
    ids = torch.arange(3, 33).reshape(2, 3, 5)
    batch = {
        "sequence_ids": ids,
        "sequence_mask": torch.ones_like(ids),
        "response_index": torch.tensor([[[1, 2, 3]] * 3, [[2, 3, 0]] * 3]),
        "labels": torch.tensor([[7, 8, 9], [10, 11, -100]]),
    }
    with torch.no_grad():
        expected = fused(**batch, return_logits=True)
    _placed(fused, spread)
    with made_up_devices():
        found = fused(**_move_all(batch, spread[0]), return_logits=True)
    assert float(here(found.loss)) == pytest.approx(float(expected.loss), abs=1e-5)
    assert torch.allclose(here(found.token_loss), expected.token_loss, atol=1e-5)
    assert torch.allclose(here(found.logits), expected.logits, atol=1e-5)


def test_decoding(fused, spread, tiny_tokenizer):
    messages = [{"role": "user", "content": "the quick"}]
    expected = list(stream(fused, tiny_tokenizer, messages, max_new_tokens=6))
    _placed(fused, spread)
    with made_up_devices():
        found = list(stream(fused, tiny_tokenizer, messages, max_new_tokens=6))
    assert [event.token_id for event in found] == [event.token_id for event in expected]


def test_the_stand_in_notices_two_devices():
    with made_up_devices():
        away = torch.ones(3).to("xla:1")
        assert isinstance(away + 1, Placed)
        with pytest.raises(RuntimeError, match=r"tensors on \['cpu', 'xla:1'\]"):
            away + torch.ones(3)


def test_named_devices_are_used_at_opening(specialist_folders):
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, devices={"code": "cpu"}, device="cpu")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    with pytest.raises(ValueError, match=r"specialists\.code\.device: 'cuda:93' is not on this machine"):
        UltraFuserForCausalLM.from_specialists(specialist_folders, devices={"code": "cuda:93"})
