"""The gate's start without training, against NumPy's least squares and the gradient of what it minimises."""

import copy

import numpy as np
import pytest
import torch

from ultrafuser.data import ResponseCollator
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.training import gate_start
from ultrafuser.training.gate_start import RIDGE, start_gate

ALL = 100  # conversations of each domain: more than there are


@pytest.fixture
def model(make_llama):
    """Three specialists that differ, with a gate whose inner layer is 12 wide."""

    def make(**gate):
        models = {name: make_llama(seed) for seed, name in enumerate(("text", "code", "math"))}
        for j, one in enumerate(models.values()):
            with torch.no_grad():
                one.get_output_embeddings().weight.mul_(3 + 3 * j)
        settings = {"type": "token", "hidden_size": 12, **gate}
        return UltraFuserForCausalLM.from_specialists(models, templates=["plain"] * 3, gate=settings)

    return make


@torch.no_grad()
def parts(model, data):
    """Features (M, N, H) and log probabilities of the labels (M, N) of every example, one at a time, float64."""
    features, logs = [], []
    for example in data.examples:
        batch = ResponseCollator(0)([example])
        labels = batch.pop("labels")[0]
        del batch["category"]
        hidden = [states[0] for states in model(**batch, output_hidden_states=True).hidden_states]
        inner = model.gate.inner
        rows = [torch.relu(states @ inner.weight.T + inner.bias) for states in hidden]
        features.append(torch.stack(rows, dim=1).double())
        own = [
            s.get_output_embeddings()(h).double().log_softmax(-1)
            for s, h in zip(model.specialists, hidden, strict=True)
        ]
        logs.append(torch.stack([o[range(len(labels)), labels] for o in own], dim=1))
    return torch.cat(features), torch.cat(logs)


def test_one_step_is_ridge_regression_on_the_softmax_of_minus_the_losses(model, train_data) -> None:
    fused = model()
    features, logs = parts(fused, train_data)
    start_gate(fused, train_data, examples_per_category=ALL, steps=1, seed=0)
    rows = ((features - features.mean(1, keepdim=True)) / 3**0.5).flatten(0, 1).numpy()
    wanted = ((logs.softmax(-1) - 1 / 3) * 3**0.5).flatten().numpy()
    ridge = RIDGE * (rows**2).sum(0).mean()
    solved = np.linalg.lstsq(
        np.concatenate([rows, ridge**0.5 * np.eye(12)]), np.concatenate([wanted, np.zeros(12)]), rcond=None
    )[0]
    assert fused.gate.outer.weight[0].detach().numpy() == pytest.approx(solved, rel=1e-3, abs=1e-5)


def test_many_steps_end_where_the_gradient_is_zero(model, train_data) -> None:
    fused = model()
    features, logs = parts(fused, train_data)
    found = start_gate(fused, train_data, examples_per_category=ALL, steps=40, seed=0)
    centred = (features - features.mean(1, keepdim=True)) / 3**0.5
    ridge = RIDGE * centred.square().sum((0, 1)).mean()
    outer = fused.gate.outer.weight[0].detach().double().requires_grad_()
    loss = -((features @ outer).log_softmax(-1) + logs).logsumexp(-1).sum()
    (loss + 0.5 * ridge * outer.square().sum()).backward()
    assert outer.grad.abs().max() < 1e-3 * loss
    assert found.losses[-1] == pytest.approx(loss.item() / len(logs), rel=1e-4)
    assert found.losses[0] == pytest.approx(float(-(logs.logsumexp(-1) - np.log(3)).mean()), rel=1e-4)
    assert found.losses[-1] < found.losses[1] < found.losses[0]
    assert found.tokens == len(logs)


def test_a_temperature_and_batches_change_nothing(model, train_data) -> None:
    plain, warm = model(), model(temperature=2.0)
    warm.load_state_dict(plain.state_dict())
    start_gate(plain, train_data, examples_per_category=3, steps=2, seed=5)
    start_gate(warm, train_data, examples_per_category=3, steps=2, seed=5, batch_size=2)
    hidden = [torch.randn(4, 16) for _ in range(3)]
    assert torch.allclose(plain.gate(hidden), warm.gate(hidden), atol=1e-4)
    assert not torch.allclose(plain.gate(hidden).softmax(-1), torch.full((4, 3), 1 / 3), atol=1e-3)


def test_the_sample_is_drawn_from_the_seed_and_the_rest_stays(model, train_data) -> None:
    fused = model(type="evidence")
    before = copy.deepcopy(fused.state_dict())
    seen = []
    first = start_gate(
        fused, train_data, examples_per_category=2, steps=1, seed=5, progress=lambda *at: seen.append(at)
    )
    assert [train_data.examples[i].category for i in first.examples] == [0, 0, 1, 1, 2, 2]
    assert seen[-1] == (6, 6)
    again = start_gate(model(type="evidence"), train_data, examples_per_category=2, steps=1, seed=5)
    assert (again.examples, again.losses) == (first.examples, pytest.approx(first.losses))
    assert start_gate(fused, train_data, examples_per_category=2, steps=1, seed=6).examples != first.examples
    changed = [name for name, value in fused.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["gate.outer.weight"]


def test_other_gates_are_refused(model, train_data) -> None:
    with pytest.raises(ValueError, match=r"gate\.type: 'joint' cannot be started without training"):
        gate_start.start_gate(model(type="joint"), train_data, examples_per_category=2, steps=1, seed=0)
