"""Response loss per example against plain models; several weightings at once against one at a time."""

import plain
import pytest
import torch

from ultrafuser.training import evaluate_many, evaluate_response_loss

WEIGHTINGS = {
    "fused": None,
    "text": [1, 0, 0],
    "code": [0, 1, 0],
    "math": torch.tensor([0.0, 0.0, 1.0]),
    "uniform": [1 / 3] * 3,
}


def test_losses_equal_a_plain_loop_in_the_order_of_the_data(fused_model, train_data):
    found = evaluate_response_loss(fused_model, train_data, batch_size=4)
    assert len(found.per_example) == len(train_data)
    for (name, category, loss_sum, n_tokens, weights), example in zip(
        found.per_example, train_data.examples, strict=True
    ):
        with torch.no_grad():
            losses = plain.token_losses(fused_model.specialists, fused_model.gate, example)
        assert (name, category) == (example.id, train_data.categories[example.category])
        assert n_tokens == len(losses) == example.n_response_tokens
        assert loss_sum == pytest.approx(float(losses.sum()), rel=1e-5)
        assert sum(weights) == pytest.approx(1, abs=1e-5)


def test_summaries_are_means_over_tokens(fused_model, train_data):
    found = evaluate_response_loss(fused_model, train_data)
    for category, loss in found.by_category().items():
        own = [e for e in found.per_example if e.category == category]
        tokens = sum(e.n_tokens for e in own)
        assert loss == pytest.approx(sum(e.loss_sum for e in own) / tokens)
        for place, name in enumerate(("text", "code", "math")):
            mean = sum(e.weights[place] * e.n_tokens for e in own) / tokens
            assert found.mean_weights()[category][name] == pytest.approx(mean)
    assert found.mean() == pytest.approx(sum(found.by_category().values()) / 3)


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_many_weightings_equal_one_at_a_time(fused_model, train_data, rule):
    fused_model.config.fusion["rule"] = rule
    together = evaluate_many(fused_model, train_data, WEIGHTINGS, batch_size=5)
    assert list(together) == list(WEIGHTINGS)
    for name, weighting in WEIGHTINGS.items():
        alone = evaluate_response_loss(fused_model, train_data, gate_weights=weighting, batch_size=3)
        for one, other in zip(together[name].per_example, alone.per_example, strict=True):
            assert one[:2] == other[:2]
            assert one.loss_sum == pytest.approx(other.loss_sum, rel=1e-5)
            assert one.weights == pytest.approx(other.weights, abs=1e-5)
    assert together["code"].per_example[0].weights == (0, 1, 0)


def test_the_specialists_read_each_batch_once(fused_model, train_data):
    calls = []
    fused_model.specialist(1).base_model.register_forward_hook(lambda *_: calls.append(1))
    evaluate_many(fused_model, train_data, WEIGHTINGS, batch_size=9)
    assert len(calls) == -(-len(train_data) // 9)


def test_modes_are_put_back_and_progress_is_told(fused_model, train_data):
    fused_model.train()
    fused_model.specialist(2).eval()
    told = []
    evaluate_response_loss(fused_model, train_data, batch_size=10, progress=lambda *args: told.append(args))
    assert fused_model.training
    assert fused_model.specialist(0).training
    assert not fused_model.specialist(2).training
    assert told == [(10, 27), (20, 27), (27, 27)]


def test_dropout_plays_no_part(make_llama, chat_templates, train_data):
    from ultrafuser.modeling import UltraFuserForCausalLM

    model = UltraFuserForCausalLM.from_specialists(
        {name: make_llama(i, attention_dropout=0.5) for i, name in enumerate(chat_templates)}, templates=chat_templates
    ).train()
    first, second = (evaluate_response_loss(model, train_data).by_category() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gate_weights": [1, 0]}, "2 weights for 3 specialists"),
        ({"gate_weights": [1, 1, 1]}, "sum to 1"),
        ({"batch_size": 0}, "batch_size: 0"),
    ],
)
def test_bad_arguments(fused_model, train_data, change, said):
    with pytest.raises(ValueError, match=said):
        evaluate_response_loss(fused_model, train_data, **change)


def test_data_that_does_not_fit(fused_model, train_data, chat_templates, tiny_tokenizer):
    from tiny_runs import dataset

    with pytest.raises(ValueError, match="holds no example"):
        evaluate_response_loss(fused_model, train_data.subset([]))
    with pytest.raises(ValueError, match="none given"):
        evaluate_many(fused_model, train_data, {})
    two = dataset(list(chat_templates.values())[:2], tiny_tokenizer, 0)
    with pytest.raises(ValueError, match="encoded for 2 specialists, the model has 3"):
        evaluate_response_loss(fused_model, two)
