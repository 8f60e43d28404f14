"""The lean losses against the plain rule: values, gradients, and what they keep in memory."""

import pytest
import torch
from torch import nn

from ultrafuser.modeling.head import Head, fused_logits, fused_logits_reference
from ultrafuser.modeling.loss import response_loss, response_loss_reference

M, N, V = 13, 3, 37
WIDTHS = (8, 8, 5)


class _Scaled(nn.Linear):
    """A head that is not a plain Linear: must go the plain way."""


def _heads(kind: str, dtype: torch.dtype = torch.float64) -> list[Head]:
    torch.manual_seed(0)
    rows = V + 3 if kind == "padded" else V
    layers = [nn.Linear(width, rows, bias=kind in ("bias", "shared, scaled"), dtype=dtype) for width in WIDTHS]
    if kind.startswith("shared"):
        layers[1] = layers[0]
    if kind == "foreign":
        layers[1] = _Scaled(WIDTHS[1], rows, bias=True, dtype=dtype)
    scales = (0.5, 1.0, 3.0) if kind == "scale" else (1.0, 1.0, 1.0)
    if kind == "shared, scaled":
        scales = (0.5, 0.5, 3.0)
    caps = {"softcap": (None, 2.0, None), "shared, capped": (2.0, 2.0, None)}.get(kind, (None, None, None))
    return [Head(layer, scale, cap, V) for layer, scale, cap in zip(layers, scales, caps, strict=True)]


def _inputs(dtype: torch.dtype = torch.float64):
    torch.manual_seed(1)
    scores = torch.randn(M, N, dtype=dtype, requires_grad=True)
    hidden = [torch.randn(M, width, dtype=dtype, requires_grad=True) for width in WIDTHS]
    return scores, hidden, torch.randint(0, V, (M,))


KINDS = ["plain", "bias", "scale", "softcap", "padded", "foreign", "shared", "shared, scaled", "shared, capped"]


def test_one_product_through_a_head_that_all_share(monkeypatch):
    """Also where nothing stands beside them, and in both ways of learning."""
    calls = []
    plain = Head.logits
    monkeypatch.setattr(Head, "logits", lambda head, hidden: calls.append(head) or plain(head, hidden))
    head = Head(nn.Linear(8, V + 2, dtype=torch.float64).requires_grad_(False), 0.7, None, V)
    scores, _, labels = _inputs()
    for learning in (False, True):
        hidden = [torch.randn(M, 8, dtype=torch.float64, requires_grad=learning) for _ in range(N)]
        gradients = []
        for function in (response_loss, response_loss_reference):
            calls.clear()
            leaves = [scores, *hidden] if learning else [scores]
            loss = function(scores.softmax(-1), hidden, [head] * N, "logits", labels)
            gradients.append([loss, *torch.autograd.grad(loss.sum(), leaves)])
            assert len(calls) == (0 if function is response_loss else N)
        for found, expected in zip(*gradients, strict=True):
            assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_fused_logits_equal_the_plain_rule(kind, rule):
    heads = _heads(kind)
    scores, hidden, _ = _inputs()
    weights = scores.softmax(-1)
    expected = fused_logits_reference(weights, hidden, heads, rule)
    assert expected.shape == (M, V)
    assert torch.allclose(fused_logits(weights, hidden, heads, rule), expected, atol=1e-12)
    own = torch.stack([head.logits(h) for head, h in zip(heads, hidden, strict=True)], 1)
    by_hand = (
        (weights[..., None] * own).sum(1) if rule == "logits" else (weights[..., None] * own.softmax(-1)).sum(1).log()
    )
    assert torch.allclose(expected, by_hand, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["logits", "probabilities"])
@pytest.mark.parametrize("rows", [1, 5, M, 10**6])
@pytest.mark.parametrize("learns", ["all", "gate", "specialists"])
def test_response_loss_equals_the_reference_with_gradients(kind, rule, rows, learns):
    def run(function, **options):
        heads = _heads(kind)
        scores, hidden, labels = _inputs()
        parameters = [p for head in heads for p in head.module.parameters()]
        if learns == "gate":
            hidden = [h.detach() for h in hidden]
            for parameter in parameters:
                parameter.requires_grad_(False)
        weights = scores.softmax(-1)
        weights = weights.detach() if learns == "specialists" else weights
        loss = function(weights, hidden, heads, rule, labels, **options)
        # Unequal weights on the positions, as a sum over examples would have.
        (loss * torch.arange(1, M + 1)).sum().backward()
        leaves = [scores, *hidden, *parameters]
        return loss.detach(), [leaf.grad for leaf in leaves]

    loss, gradients = run(response_loss, chunk_bytes=4 * V * rows)
    expected, expected_gradients = run(response_loss_reference)
    assert torch.allclose(loss, expected, atol=1e-10)
    assert [g is None for g in gradients] == [g is None for g in expected_gradients]
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert got is None or torch.allclose(got, want, atol=1e-9)
    if learns != "specialists":
        assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_heads_sum_in_float32(dtype):
    """The sum over specialists is made in float32: as exact as the specialists' own 16-bit logits allow."""
    heads = _heads("bias", dtype)
    scores, hidden, labels = _inputs(dtype)
    weights = scores.float().softmax(-1)
    fused = fused_logits(weights, hidden, heads, "logits")
    assert fused.dtype == torch.float32
    assert torch.allclose(fused, fused_logits_reference(weights, hidden, heads, "logits"), atol=0.02)
    response_loss(weights, hidden, heads, "logits", labels).sum().backward()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_no_response_positions(rule):
    heads = _heads("plain")
    weights = torch.zeros(0, N, dtype=torch.float64, requires_grad=True)
    hidden = [torch.zeros(0, width, dtype=torch.float64) for width in WIDTHS]
    loss = response_loss(weights, hidden, heads, rule, torch.zeros(0, dtype=torch.long))
    assert loss.shape == (0,)


@pytest.mark.parametrize(
    ("rule", "learns", "limit"),
    [("logits", "all", 3 * V), ("logits", "gate", V), ("probabilities", "gate", V)],
)
def test_what_is_kept_for_the_backward_pass(rule, learns, limit):
    """Per position fewer numbers are kept than N x V logits: in chunks, only the inputs of each chunk."""
    rows, heads = 200, _heads("plain", torch.float32)
    torch.manual_seed(2)
    weights = torch.rand(rows, N).requires_grad_()
    hidden = [torch.randn(rows, width, requires_grad=learns == "all") for width in WIDTHS]
    if learns == "gate":
        for head in heads:
            head.module.requires_grad_(False)
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        labels = torch.randint(0, V, (rows,))
        response_loss(weights, hidden, heads, rule, labels, chunk_bytes=4 * V * 20).sum()
    assert sum(kept.values()) < rows * limit


def test_float64_gradients_by_finite_differences():
    heads = _heads("plain")
    scores, hidden, labels = _inputs()
    hidden = [h.detach() for h in hidden]
    for head in heads:
        head.module.requires_grad_(False)

    def loss(scores):
        return response_loss(scores.softmax(-1), hidden, heads, "logits", labels, chunk_bytes=4 * V * 4)

    assert torch.autograd.gradcheck(loss, (scores,))
