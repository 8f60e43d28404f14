"""Packed linear layers against plain ones: the same products, never of a weight that has changed."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ultrafuser.generation import generate_batch, likelihoods, packing
from ultrafuser.generation.packing import PackedLinear, pack, unpack

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
TALKS = [[{"role": "user", "content": text}] for text in ("fox", "What is 12 plus 30?", "the lazy dog " * 5)]


@pytest.fixture
def layers():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 17, bias=False)).eval()


@pytest.mark.parametrize("shape", [(24,), (1, 24), (5, 24), (3, 7, 24), (2, 300, 24), (0, 24), (3, 0, 24)])
def test_products_are_the_plain_ones(layers, shape):
    given = torch.randn(shape)
    with torch.no_grad():
        expected = layers(given)
        assert pack(layers) == 2
        torch.testing.assert_close(layers(given), expected, rtol=1e-5, atol=1e-5)


def test_input_of_any_layout(layers):
    given = torch.randn(24, 6, 4).permute(2, 1, 0)
    with torch.no_grad():
        expected = layers(given)
        pack(layers)
        torch.testing.assert_close(layers(given), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_that_changed_is_used_as_it_is_now(layers):
    given = torch.randn(4, 24)
    pack(layers)
    with torch.no_grad():
        before = layers(given)
        layers[1].weight.mul_(2)
        torch.testing.assert_close(layers(given), 2 * before, rtol=1e-5, atol=1e-5)
        layers[0].load_state_dict({"weight": torch.zeros(40, 24), "bias": torch.zeros(40)})
        assert not layers(given).any()
        assert layers.double()(given.double()).dtype == torch.float64


def test_gradients_flow_as_through_plain_layers(layers):
    given = torch.randn(4, 24)
    plain = copy.deepcopy(layers)
    pack(layers)
    for model in (plain, layers):
        model(given).square().sum().backward()
    torch.testing.assert_close(layers[0].weight.grad, plain[0].weight.grad)


def test_a_copy_is_plain(layers):
    given = torch.randn(4, 24)
    pack(layers)
    copies = copy.deepcopy(layers), pickle.loads(pickle.dumps(layers))
    with torch.no_grad():
        for one in copies:
            torch.testing.assert_close(one(given), layers(given), rtol=1e-5, atol=1e-5)
            one[0].weight.zero_()
            assert not torch.equal(one(given), layers(given))


def test_unpack_leaves_no_trace(layers):
    keys = [set(vars(layer)) for layer in layers]
    pack(layers)
    assert all(type(layer) is PackedLinear for layer in layers)
    assert pack(layers) == 0
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "1.weight"]
    unpack(layers)
    assert [set(vars(layer)) for layer in layers] == keys
    assert all(type(layer) is nn.Linear for layer in layers)


def test_left_alone_where_it_would_not_help_or_fit(layers, monkeypatch):
    assert pack(copy.deepcopy(layers).bfloat16()) == 0
    assert pack(copy.deepcopy(layers).to("meta")) == 0
    monkeypatch.setattr(packing, "_free_memory", lambda: 2 * 4 * (24 * 40 + 40 * 17) - 1)
    assert pack(layers) == 0
    monkeypatch.setattr(packing, "_free_memory", lambda: 2 * 4 * (24 * 40 + 40 * 17))
    assert pack(layers) == 2


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_a_fused_model_says_the_same_packed(fused_model, tiny_tokenizer, rule):
    fused_model.config.fusion["rule"] = rule

    def said():
        return [answer.text for answer in generate_batch(fused_model, tiny_tokenizer, TALKS, max_new_tokens=16)]

    def nats():
        queries = [(talk, " it sleeps", True) for talk in TALKS]
        return [one.logprob for one in likelihoods(fused_model, tiny_tokenizer, queries)]

    texts, scores = said(), nats()
    assert pack(fused_model) > 3 * 14
    assert said() == texts
    assert nats() == pytest.approx(scores, abs=1e-4)
