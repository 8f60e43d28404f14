"""The gate's temperature, fixed and learned, against the plain gate divided by hand."""

import pytest
import torch

from ultrafuser.modeling import GATES, UltraFuserForCausalLM
from ultrafuser.modeling.gate import build_gate, gate_settings

HIDDEN = [torch.randn(5, 8, generator=torch.Generator().manual_seed(j)) for j in range(3)]
EVIDENCE = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(9))


def made(**settings):
    gate = build_gate(gate_settings(settings, 1), [8] * 3)
    gate.reset_parameters(1)
    return gate


@pytest.mark.parametrize("kind", GATES)
def test_the_scores_are_divided_by_it(kind) -> None:
    plain = made(type=kind)(HIDDEN, EVIDENCE)
    assert torch.equal(made(type=kind, temperature=1.0, learn_temperature=False)(HIDDEN, EVIDENCE), plain)
    assert torch.allclose(made(type=kind, temperature=0.5)(HIDDEN, EVIDENCE), 2 * plain)
    learned = made(type=kind, temperature=2.0, learn_temperature=True)
    assert torch.allclose(learned(HIDDEN, EVIDENCE), plain / 2)
    assert set(learned.state_dict()) - set(made(type=kind).state_dict()) == {"log_temperature"}


def test_a_learned_one_has_the_gradient_of_its_logarithm() -> None:
    gate = made(learn_temperature=True, temperature=2.0)
    (gate(HIDDEN) * EVIDENCE[..., 0]).sum().backward()
    scores = made()(HIDDEN).double().detach()
    log = torch.tensor(2.0, dtype=torch.float64).log().requires_grad_()
    (scores / log.exp() * EVIDENCE[..., 0].double()).sum().backward()
    assert gate.log_temperature.grad.item() == pytest.approx(float(log.grad), rel=1e-5)


def test_the_default_leaves_no_trace() -> None:
    assert gate_settings({"type": "token", "temperature": 1.0}, 0) == gate_settings("token", 0)


def test_it_is_kept_with_the_model(specialist_folders, tmp_path) -> None:
    gate = {"type": "token", "temperature": 0.5, "learn_temperature": True}
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, gate=gate)
    with torch.no_grad():
        model.gate.log_temperature.fill_(0.25)
    ids = torch.tensor([[5, 6, 7, 8]])
    for options in ({}, {"gate_only": True}):
        folder = tmp_path / str(len(options))
        model.save_pretrained(folder, **options)
        again = UltraFuserForCausalLM.from_pretrained(folder)
        assert again.gate.log_temperature.item() == 0.25
        assert torch.allclose(again(ids).gate_weights, model(ids).gate_weights, atol=1e-6)


def test_a_new_specialist_leaves_it_as_it_was(specialist_folders) -> None:
    from ultrafuser.modeling import remove_specialist

    gate = {"type": "token", "learn_temperature": True}
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, gate=gate)
    with torch.no_grad():
        model.gate.log_temperature.fill_(0.25)
    assert remove_specialist(model, list(specialist_folders)[-1]).gate.log_temperature.item() == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"gate\.temperature: 0\.0 is not a positive number"),
        ({"temperature": float("inf")}, r"gate\.temperature: inf is not a positive number"),
        ({"temperature": "warm"}, r"gate\.temperature: 'warm' is not a positive number"),
        ({"learn_temperature": 1}, r"gate\.learn_temperature: 1 is not true or false"),
        ({"temprature": 2.0}, r"gate\.temprature: gate 'token' takes .*; did you mean 'temperature'\?"),
    ],
)
def test_mistakes_are_told(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)
