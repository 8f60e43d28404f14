"""The selector against a case worked out by hand, its saved model against its own choices, and the oracles."""

import json

import pytest
import torch

from ultrafuser.baselines import BASELINES
from ultrafuser.baselines.making import make_baseline
from ultrafuser.baselines.routing import TARGETS, Answers, fit, read_answers, routed_loss
from ultrafuser.baselines.scores import measure, open_made


def make(name, setting):
    return make_baseline(BASELINES[name], setting)


# Four answers, two specialists, one number read: the first is better where it is negative.
HAND = Answers(
    torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]),
    torch.tensor([[2.0, 8.0], [1.0, 3.0], [6.0, 2.0], [9.0, 8.0]], dtype=torch.float64),
    torch.tensor([2, 1, 4, 1]),
    torch.tensor([0, 0, 1, 1]),
)


def test_routed_loss_by_hand():
    best, second = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 1, 1])
    assert routed_loss(HAND, best) == pytest.approx(((2 + 1) / 3 + (2 + 8) / 5) / 2)
    assert routed_loss(HAND, second) == pytest.approx(((8 + 3) / 3 + (2 + 8) / 5) / 2)


@pytest.mark.parametrize("target", TARGETS)
def test_a_selector_learns_what_is_plain(target):
    selector = fit(HAND, target, 1e-4)
    assert selector.choice(HAND).tolist() == [0, 0, 1, 1]
    moved = HAND._replace(states=1000 + 7 * HAND.states)  # scaling is part of the weights
    assert fit(moved, target, 1e-4).choice(moved).tolist() == [0, 0, 1, 1]


def test_targets_differ_where_a_rare_mistake_is_dear():
    """One state, three answers: the second specialist is better twice by little, the first once by much."""
    answers = Answers(
        torch.zeros(3, 1),
        torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 9.0]], dtype=torch.float64),
        torch.ones(3, dtype=torch.long),
        torch.zeros(3, dtype=torch.long),
    )
    assert fit(answers, "lowest", 1e-3).choice(answers).tolist() == [1, 1, 1]
    assert fit(answers, "expected", 1e-3).choice(answers).tolist() == [0, 0, 0]


def test_what_is_read_equals_plain_models(make_setting):
    from transformers import AutoModelForCausalLM

    setting = make_setting()
    fused = setting.fuse({name: setting.open(name) for name in setting.names}, setting.templates, gate="answer")
    data = setting.material.heldout
    found = read_answers(fused, data, batch_size=3)
    assert found.tokens.tolist() == [e.n_response_tokens for e in data.examples]
    assert found.domains.tolist() == [e.category for e in data.examples]
    for row in (0, 5):
        response = torch.tensor(data[row].responses[0]).long()
        states = []
        for j, origin in enumerate(setting.origins.values()):
            model = AutoModelForCausalLM.from_pretrained(origin.path)
            ids = torch.cat([torch.tensor(data[row].prompts[j][0]).long(), response])[None]
            with torch.no_grad():
                output = model(ids, output_hidden_states=True)
            logs = output.logits[0, -len(response) - 1 : -1].double().log_softmax(-1)
            assert found.nats[row, j].item() == pytest.approx(-logs.gather(1, response[:, None]).sum().item(), rel=1e-5)
            states.append(output.hidden_states[-1][0, -len(response) - 1])
        assert torch.allclose(found.states[row], torch.cat(states), atol=1e-5)


def test_the_saved_model_gives_every_answer_to_the_specialist_chosen(make_setting):
    setting = make_setting()
    made = make("routing", setting)
    model = open_made(setting, made.folder)
    assert (model.config.gate["type"], model.config.fusion["top_k"], model.gate_is_trained) == ("answer", 1, True)
    answers = read_answers(model, setting.material.heldout)
    weight, bias = model.gate.outer.weight, model.gate.outer.bias
    choice = (answers.states @ weight.T + bias).argmax(-1)
    rows = measure(setting, made.folder).rows
    expected = answers.nats.gather(-1, choice[:, None])[:, 0].tolist()
    assert [row.nats for row in rows] == pytest.approx(expected, rel=1e-5)
    assert made.parameters_trained == weight.numel() + bias.numel()
    losses = made.chosen["validation_losses"]
    assert losses[f"{made.chosen['target']}/{made.chosen['ridge']:g}"] == min(losses.values())
    json.dumps(made.as_dict(), allow_nan=False)


def test_oracles_equal_an_independent_minimum_over_plain_models(make_setting):
    from transformers import AutoModelForCausalLM

    from ultrafuser.baselines.oracles import oracle_scores

    setting = make_setting()
    data, by_specialist = setting.material.heldout, []
    for j, origin in enumerate(setting.origins.values()):
        model = AutoModelForCausalLM.from_pretrained(origin.path)
        nats = []
        for example in data.examples:
            response = torch.tensor(example.responses[0]).long()
            ids = torch.cat([torch.tensor(example.prompts[j][0]).long(), response])[None]
            with torch.no_grad():
                logs = model(ids).logits[0, -len(response) - 1 : -1].double().log_softmax(-1)
            nats.append(-logs.gather(1, response[:, None]).sum().item())
        by_specialist.append(nats)
    sample = oracle_scores(make_setting("sample"), "heldout").rows
    assert [row.nats for row in sample] == pytest.approx([min(same) for same in zip(*by_specialist, strict=True)])
    domain = oracle_scores(make_setting("domain"), "heldout").rows
    for category, name in enumerate(data.categories):
        places = [i for i, e in enumerate(data.examples) if e.category == category]
        best = min(by_specialist, key=lambda nats: sum(nats[i] for i in places))
        assert [r.nats for r in domain if r.domain == name] == pytest.approx([best[i] for i in places])
    with pytest.raises(ValueError, match="variant: 'item' is not one of domain, sample"):
        make("oracle", make_setting("item"))
