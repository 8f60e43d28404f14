"""Linear layers as experts: against a case worked by hand and a loop over tokens and experts in float64."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ultrafuser.modeling.experts import ExpertLinear, Router, block_linears, stacked_biases, stacked_weights


def random_layer(inputs=6, outputs=5, n=3, k=2, *, bias=True, seed=0):
    layer = ExpertLinear(inputs, outputs, n, k, bias=bias)
    torch.manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def test_by_hand():
    """The input 2 scores 2 ln 0.1, 2 ln 3 and 0: the best two are the second and third, at 9 to 1."""
    layer = ExpertLinear(1, 1, 3, 2, bias=True)
    with torch.no_grad():
        layer.router.weight.copy_(torch.log(torch.tensor([[0.1], [3.0], [1.0]])))
        layer.experts.weight.copy_(torch.tensor([5.0, 1.0, 10.0]).view(3, 1, 1))
        layer.experts.bias.copy_(torch.tensor([[7.0], [0.5], [1.0]]))
    # experts 1 and 2: 0.9 (2 + 0.5) + 0.1 (20 + 1) = 2.25 + 2.1
    assert layer(torch.tensor([[2.0]])).item() == pytest.approx(4.35)
    logits, weights, chosen = layer.router(torch.tensor([[2.0]]))
    assert chosen.tolist() == [[1, 2]]
    assert weights.flatten().tolist() == pytest.approx([0.9, 0.1])
    assert logits.shape == (1, 3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "k"), [(2, 1), (2, 2), (3, 2), (5, 3)])
def test_against_the_loop(n, k, bias):
    layer = random_layer(n=n, k=k, bias=bias).double()
    input_BTI = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(2, 7, 5, dtype=torch.float64)
    found = []
    for forward in (layer, layer.forward_reference):
        output = forward(input_BTI)
        grads = torch.autograd.grad((output * probe).sum(), [input_BTI, *layer.parameters()], allow_unused=True)
        found.append([output, *(g for g in grads if g is not None)])
    assert len(found[0]) == len(found[1]) == 3 + bias + 1
    for ours, wanted in zip(*found, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-12)
    single = layer.float()(input_BTI.float())
    assert torch.allclose(single.double(), found[1][0], atol=1e-5)


def test_a_token_does_not_depend_on_its_neighbours():
    layer, input_MI = random_layer(), torch.randn(9, 6)
    together = layer(input_MI)
    assert torch.allclose(together, torch.cat([layer(row[None]) for row in input_MI]), atol=1e-6)
    assert layer(input_MI[:0]).shape == (0, 5)


def test_in_16_bits_the_router_decides_in_32():
    layer = random_layer().bfloat16()
    logits, weights, _ = layer.router(torch.randn(4, 6).bfloat16())
    assert logits.dtype == weights.dtype == torch.float32
    assert layer(torch.randn(4, 6).bfloat16()).dtype == torch.bfloat16


def test_a_router_of_all_is_a_plain_softmax():
    router = Router(4, 3, 3)
    nn.init.normal_(router.weight)
    rows = torch.randn(5, 4)
    _, weights, chosen = router(rows)
    wanted = (rows @ router.weight.T).softmax(-1)
    assert torch.allclose(weights, wanted.gather(1, chosen), atol=1e-6)


def test_layers_that_keep_their_weights_turned_are_turned_back():
    conv, linear = Conv1D(5, 6), nn.Linear(6, 5)
    assert torch.equal(stacked_weights([linear, conv])[1], conv.weight.T)
    assert stacked_weights([linear, conv]).shape == (2, 5, 6)
    assert stacked_biases([linear, conv]).shape == (2, 5)


def test_blocks_hold_neither_embeddings_nor_head(make_llama):
    found = block_linears(make_llama(0, layers=2))
    assert len(found) == 2 * 7
    assert all(".layers." in name for name in found)
