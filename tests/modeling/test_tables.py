"""The contract of every row of GATES and FUSION_RULES: a new row is tested by being there."""

import pytest
import torch

from ultrafuser.modeling import FUSION_RULES, GATES, UltraFuserForCausalLM
from ultrafuser.modeling.gate import build_gate, gate_options, gate_settings, normalise
from ultrafuser.modeling.head import fused_logits, fused_logits_reference
from ultrafuser.modeling.loss import response_loss, response_loss_reference

N, D, V = 3, 8, 13


def _hidden(*shape: int, n: int = N) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape, D) for _ in range(n)]


@pytest.fixture(params=list(GATES))
def gate_kind(request):
    return request.param


@pytest.fixture(params=list(FUSION_RULES))
def rule(request):
    return request.param


def _gate(kind: str, n: int = N, seed: int = 1):
    gate = build_gate(gate_settings(kind, seed), [D] * n)
    gate.reset_parameters(seed)
    return gate


def _ask(gate, hidden: list[torch.Tensor]) -> torch.Tensor:
    """The gate's logits; evidence, where it reads any, is a function of each specialist's own states here."""
    evidence = torch.stack([states[..., :4].float() for states in hidden], dim=-2) if gate.reads_evidence else None
    return gate(hidden, evidence)


def test_gate_gives_one_logit_for_each_specialist_in_float32(gate_kind):
    for shape in ((5,), (2, 4), (0,)):
        logits = _ask(_gate(gate_kind), _hidden(*shape))
        assert logits.shape == (*shape, N)
        assert logits.dtype == torch.float32
    half = _ask(_gate(gate_kind), [states.bfloat16() for states in _hidden(2, 4)])
    assert half.dtype == torch.float32


def test_gate_sees_each_position_by_itself(gate_kind):
    gate, hidden = _gate(gate_kind), _hidden(2, 6)
    whole = _ask(gate, hidden)
    assert torch.allclose(_ask(gate, [states[:, 2:5] for states in hidden]), whole[:, 2:5], atol=1e-6)
    assert torch.allclose(_ask(gate, [states[1:, 3] for states in hidden]), whole[1:, 3], atol=1e-6)


def test_gate_is_drawn_from_its_seed(gate_kind):
    first, second = _gate(gate_kind), _gate(gate_kind)
    torch.manual_seed(99)
    second.reset_parameters(1)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gate_learns_in_all_its_parts(gate_kind):
    gate = _gate(gate_kind)
    normalise(_ask(gate, _hidden(4)))[:, 0].log().sum().backward()
    for name, parameter in gate.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gate_of_one_has_all_the_weight(gate_kind):
    weights = normalise(_ask(_gate(gate_kind, n=1), _hidden(4, n=1)))
    assert torch.equal(weights, torch.ones(4, 1))


def test_gate_that_serves_any_number_really_does(gate_kind):
    gate = _gate(gate_kind)
    if gate.serves_any_number:
        assert _ask(gate, _hidden(4, n=5)).shape == (4, 5)
        assert torch.equal(_ask(gate, _hidden(4, n=5))[:, :2], _ask(gate, _hidden(4, n=5)[:2]))


def test_gate_settings_are_kept_in_full(gate_kind, make_llama):
    settings = gate_settings(gate_kind, 4)
    assert set(settings) == {"type", "seed", *gate_options(gate_kind)} - {"projection_size"}  # only where widths differ
    model = UltraFuserForCausalLM.from_specialists({"a": make_llama(1)}, gate=gate_kind, seed=4)
    assert model.config.gate == settings


def test_rule_of_one_is_that_specialist(rule):
    logits = torch.randn(5, 1, V)
    fused = FUSION_RULES[rule](torch.ones(5, 1), logits)
    assert fused.shape == (5, V)
    assert torch.allclose(fused.log_softmax(-1), logits[:, 0].log_softmax(-1), atol=1e-5)


def test_rule_with_all_weight_on_one_is_that_specialist(rule):
    logits = torch.randn(2, 5, N, V)
    for j in range(N):
        weights = torch.nn.functional.one_hot(torch.tensor(j), N).float().expand(2, 5, N)
        fused = FUSION_RULES[rule](weights, logits)
        assert torch.allclose(fused.log_softmax(-1), logits[..., j, :].log_softmax(-1), atol=1e-5)


def test_rule_does_not_mind_the_order_and_leaves_agreement_alone(rule):
    logits, weights = torch.randn(5, N, V), torch.rand(5, N).softmax(-1)
    order = torch.tensor([2, 0, 1])
    fused = FUSION_RULES[rule](weights, logits)
    assert torch.allclose(fused, FUSION_RULES[rule](weights[:, order], logits[:, order]), atol=1e-5)
    same = logits[:, :1].expand(-1, N, -1)
    agreed = FUSION_RULES[rule](weights, same).log_softmax(-1)
    assert torch.allclose(agreed, logits[:, 0].log_softmax(-1), atol=1e-5)


def test_rule_has_finite_gradients_where_weights_are_zero(rule):
    logits = torch.randn(5, N, V, requires_grad=True)
    weights = torch.tensor([[0.0, 1.0, 0.0]]).repeat(5, 1).requires_grad_()
    FUSION_RULES[rule](weights, logits).log_softmax(-1)[:, 0].sum().backward()
    assert torch.isfinite(weights.grad).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("top_k", [None, 2])
def test_rule_and_gate_through_the_whole_model(specialist_folders, gate_kind, rule, top_k):
    model = UltraFuserForCausalLM.from_specialists(
        specialist_folders, gate=gate_kind, fusion={"rule": rule, "top_k": top_k}, seed=2
    )
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    output = model(input_ids=ids, labels=ids, output_hidden_states=True)
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    hidden = [states.detach() for states in output.hidden_states]
    weights = output.gate_weights.detach()
    assert (weights > 0).sum(-1).max() == (top_k or 3)
    expected = fused_logits_reference(weights, hidden, model.heads, rule)
    assert torch.allclose(output.logits, expected, atol=1e-4)
    assert torch.allclose(fused_logits(weights, hidden, model.heads, rule), expected, atol=1e-4)
    rows = [states[0] for states in hidden]
    lean = response_loss(weights[0], rows, model.heads, rule, ids[0], chunk_bytes=1)
    assert torch.allclose(lean, response_loss_reference(weights[0], rows, model.heads, rule, ids[0]), atol=1e-4)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert model.generate(ids, **options).tolist() == model.generate(ids, **options, use_cache=False).tolist()
