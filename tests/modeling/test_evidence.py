"""The evidence that a gate reads, by hand and against a float64 loop; the gate on it, trained and decoding."""

import math

import pytest
import torch

from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.evidence import FEATURES, evidence_of, read_evidence
from ultrafuser.modeling.gate import EvidenceGate

KL_MIX = 0.5 * math.log(0.5 / 0.375) + 0.25 * math.log(0.25 / 0.375) + 0.25 * math.log(1.0)


def slow_evidence(own):
    """The features (N, F) of N distributions, one number after the other in float64."""
    n, rows = len(own), []
    mean = [sum(p[v] for p in own) / n for v in range(len(own[0]))]
    for j, p in enumerate(own):
        others = [max(range(len(q)), key=lambda v, q=q: q[v]) for k, q in enumerate(own) if k != j]
        rows.append(
            [
                -sum(x * math.log(x) for x in p),
                math.log(max(p)),
                sum(p[v] for v in others) / len(others) if others else 1.0,
                sum(x * math.log(x / m) for x, m in zip(p, mean, strict=True)),
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


def test_two_specialists_by_hand() -> None:
    first, second = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    found = evidence_of([first + 3.0, second])  # a constant on the logits changes nothing
    assert found.shape == (1, 2, len(FEATURES))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert found[0, 0].tolist() == pytest.approx([entropy, math.log(0.5), 0.25, KL_MIX], abs=1e-6)
    assert found[0, 1].tolist() == pytest.approx([entropy, math.log(0.5), 0.25, KL_MIX], abs=1e-6)


def test_agreement_counts_every_other_one() -> None:
    sure = torch.tensor([[0.98, 0.01, 0.01]]).log()
    other = torch.tensor([[0.2, 0.7, 0.1]]).log()
    found = evidence_of([sure, sure, other])
    assert found[0, :, 2].tolist() == pytest.approx([(0.98 + 0.01) / 2, (0.98 + 0.01) / 2, 0.2], abs=1e-6)


def test_one_specialist_agrees_with_itself() -> None:
    found = evidence_of([torch.randn(4, 7)])
    assert torch.allclose(found[..., 2], torch.ones(4, 1))
    assert torch.allclose(found[..., 3], torch.zeros(4, 1), atol=1e-6)


@pytest.mark.parametrize("chunk_bytes", [1, 2**26])
def test_a_float64_loop_over_plain_specialists(specialist_folders, reference, chunk_bytes) -> None:
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, gate="evidence")
    ids = torch.tensor([[5, 6, 7, 8, 9, 30], [9, 200, 11, 12, 4, 8]])
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    found = read_evidence(hidden, model.heads, chunk_bytes)
    assert found.shape == (2, 6, 3, 4)
    plain = reference(specialist_folders.values(), model).models
    for b in range(2):
        own = [one(ids[b : b + 1]).logits[0].softmax(-1).tolist() for one in plain]
        for t in range(6):
            expected = slow_evidence([distribution[t] for distribution in own])
            assert torch.allclose(found[b, t].double(), expected, atol=2e-5)


def slow_fused(model, plain, ids):
    """Fused logits (T, V) and weights (T, N) of one sequence in float64, evidence and gate worked out by hand."""
    gate = {name: value.detach().double() for name, value in model.gate.state_dict().items()}
    outputs = [one(torch.tensor([ids]), output_hidden_states=True) for one in plain]
    own = [output.logits[0].softmax(-1).tolist() for output in outputs]
    scores = []
    for t in range(len(ids)):
        evidence = slow_evidence([distribution[t] for distribution in own])
        read = torch.stack([torch.cat([o.hidden_states[-1][0, t], evidence[j]]) for j, o in enumerate(outputs)])
        scores.append((gate["outer.weight"] @ (read @ gate["inner.weight"].T + gate["inner.bias"]).clamp_min(0).T)[0])
    weights = torch.stack(scores).softmax(-1)
    return sum(weights[:, j : j + 1] * output.logits[0] for j, output in enumerate(outputs)), weights


@torch.no_grad()
def test_weights_and_decoding_equal_the_loop(specialist_folders, reference) -> None:
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, gate="evidence", seed=3)
    for parameter in model.gate.parameters():
        parameter.mul_(4)
    plain = reference(specialist_folders.values(), model).models
    ids = [5, 6, 7, 8, 9, 30]
    logits, weights = slow_fused(model, plain, ids)
    output = model(input_ids=torch.tensor([ids]))
    assert weights.std(0).max() > 0.005  # it does weigh token by token
    assert torch.allclose(output.gate_weights[0].double(), weights, atol=1e-4)
    assert torch.allclose(output.logits[0].double(), logits, atol=1e-3)
    answer = list(ids)
    for _ in range(6):
        answer.append(int(slow_fused(model, plain, answer)[0][-1].argmax()))
    made = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert made[0].tolist() == answer


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_gradients_are_those_of_evidence_as_a_constant(specialist_folders, rule) -> None:
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, gate="evidence", fusion=rule, dtype="float64")
    model.gate.double()
    ids = torch.tensor([[5, 6, 7, 8, 9, 30]])
    output = model(input_ids=ids, labels=ids, output_hidden_states=True)
    output.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    evidence = read_evidence(output.hidden_states, model.heads).double()
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    weights = model.gate(hidden, evidence).softmax(-1)
    own = torch.stack([head.logits(states) for head, states in zip(model.heads, hidden, strict=True)], dim=-2)
    fused = (weights[..., None] * own).sum(-2) if rule == "logits" else _mixed(weights, own)
    torch.nn.functional.cross_entropy(fused[0, :-1], ids[0, 1:]).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-7), name
    assert found["gate.inner.weight"][:, -4:].abs().sum() > 0


def _mixed(weights, own):
    return (weights[..., None] * own.softmax(-1)).sum(-2).log()


def test_a_clear_word_where_there_is_no_evidence() -> None:
    gate = EvidenceGate([8, 8], hidden_size=4)
    with pytest.raises(ValueError, match="gate: an evidence gate reads the specialists' predictions too"):
        gate([torch.zeros(2, 8), torch.zeros(2, 8)])


def test_other_tokenizers_are_refused(crossing_folders) -> None:
    with pytest.raises(ValueError, match=r"gate\.type: 'evidence' compares .* tokenizers differ; use token, joint or"):
        UltraFuserForCausalLM.from_specialists(crossing_folders, gate="evidence", fusion="probabilities")


def test_it_learns_in_both_stages_and_is_kept(specialist_folders, tmp_path) -> None:
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, gate="evidence", seed=3)
    ids = torch.tensor([[5, 6, 7, 8, 9, 30]])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    for options in ({}, {"gate_only": True}):
        folder = tmp_path / str(len(options))
        fresh = UltraFuserForCausalLM.from_specialists(specialist_folders, gate="evidence", seed=4)
        fresh.save_pretrained(folder, **options)
        again = UltraFuserForCausalLM.from_pretrained(folder)
        assert again.config.gate["type"] == "evidence"
        assert torch.allclose(again(ids).logits, fresh(ids).logits, atol=1e-5)
