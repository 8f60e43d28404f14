"""The loss and the steps taken, against plain Transformers models in plain loops; accumulation; the two loss kinds."""

import copy

import plain
import pytest
import torch
from tiny_runs import stage

from ultrafuser.data import ClassBalancedBatchSampler


def batches(train_data, of, seed=0):
    n, names = of.examples_per_category, train_data.categories
    sampler = ClassBalancedBatchSampler(train_data.category_index, n, steps=of.steps, seed=1000 * seed, names=names)
    return [[train_data[i] for i in sampler.batch(step)] for step in range(of.steps)]


def learning(model, what):
    chosen = {"gate": [model.gate], "all": [model.gate, *model.specialists], "specialists": model.specialists}[what]
    return [parameter for module in chosen for parameter in module.parameters()]


@pytest.mark.parametrize("loss", ["token_mean", "example_sum"])
@pytest.mark.parametrize("what", ["gate", "all"])
def test_training_equals_a_plain_loop_over_plain_models(fused_model, run, train_data, what, loss):
    given = stage(what, loss=loss, steps=3, learning_rate=3e-3)
    reference = copy.deepcopy(fused_model)
    if what == "gate":
        for specialist in reference.specialists:
            specialist.requires_grad_(False)
    expected = plain.train(reference, learning(reference, what), batches(train_data, given), given)
    result = run(fused_model, given, validation=None)
    logged = [entry["loss"] for entry in result.history]
    assert logged == pytest.approx(expected, rel=1e-5)
    for (name, mine), (_, other) in zip(fused_model.named_parameters(), reference.named_parameters(), strict=True):
        difference = (mine - other).abs()  # Adam blows rounding up where a gradient is next to nothing
        assert difference.max() < 1e-4, name
        assert difference.mean() < 5e-6, name


def test_the_two_losses_by_hand(fused_model, run, train_data):
    """Token losses of one batch: token_mean divides their sum by the tokens, example_sum by the examples."""
    given = {kind: stage("gate", loss=kind, steps=1) for kind in ("token_mean", "example_sum")}
    (examples,) = batches(train_data, given["token_mean"])
    with torch.no_grad():
        losses = [plain.token_losses(fused_model.specialists, fused_model.gate, example) for example in examples]
    total, tokens = sum(float(loss.sum()) for loss in losses), sum(map(len, losses))
    assert len({len(loss) for loss in losses}) > 1, "equal lengths would not tell the two apart"
    for kind, divisor in (("token_mean", tokens), ("example_sum", len(examples))):
        model = copy.deepcopy(fused_model)
        entry = run(model, given[kind], validation=None, resume=False).history[0]
        assert entry["loss"] == pytest.approx(total / divisor, rel=1e-5)


@pytest.mark.parametrize("loss", ["token_mean", "example_sum"])
def test_accumulation_does_not_change_the_weights(fused_model, run, weights_of, monkeypatch, loss):
    from ultrafuser.training import arguments

    monkeypatch.setattr(arguments, "MOST_PARTS", 1)
    found = {}
    for parts in (1, 2, 4):
        model = copy.deepcopy(fused_model)
        given = stage("all", loss=loss, examples_per_category=4, accumulation=parts, learning_rate=1e-3, steps=4)
        result = run(model, given, validation=None, resume=False)
        found[parts] = weights_of(model), [entry["loss"] for entry in result.history]
    for parts in (2, 4):
        assert found[parts][1] == pytest.approx(found[1][1], rel=1e-5)
        for name, weights in found[parts][0].items():
            assert torch.allclose(weights, found[1][0][name], atol=1e-6), name


def test_loss_by_domain_and_gate_weights_are_those_of_the_batch(fused_model, run, train_data):
    given = stage("gate", steps=1)
    (examples,) = batches(train_data, given)
    with torch.no_grad():
        losses = [plain.token_losses(fused_model.specialists, fused_model.gate, example) for example in examples]
    entry = run(copy.deepcopy(fused_model), given, validation=None).history[0]
    for place, name in enumerate(train_data.categories):
        own = torch.cat([loss for loss, e in zip(losses, examples, strict=True) if e.category == place])
        assert entry[f"loss_{name}"] == pytest.approx(float(own.mean()), rel=1e-5)
        assert sum(entry["gate_weights"][name].values()) == pytest.approx(1, abs=1e-5)
        assert 0 < entry["gate_entropy"][name] <= 1.0987


def test_a_lost_loss_stops_training_and_names_the_step(fused_model, run, weights_of):
    from ultrafuser.training import TrainingDiverged

    class Poison:
        """Makes the loss of the third step infinite."""

        def __init__(self, gate):
            self.gate, self.calls = gate, 0
            gate.register_forward_pre_hook(self.hook)

        def hook(self, gate, inputs):
            self.calls += gate.training
            if self.calls == 5:  # a batch is read in two parts
                return ([hidden * float("nan") for hidden in inputs[0]],)
            return None

    Poison(fused_model.gate)
    given = stage("gate", steps=5, save_every=1)
    with pytest.raises(TrainingDiverged, match=r"stage 'gate': the loss is nan at step 3.*learning_rate \(now 0.01\)"):
        run(fused_model, given, validation=None)
    assert all(torch.isfinite(weights).all() for weights in weights_of(fused_model).values())


def test_a_lost_gradient_stops_training_too(fused_model, run, weights_of):
    from ultrafuser.training import TrainingDiverged

    fused_model.gate.outer.weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(TrainingDiverged, match=r"the gradient is (inf|nan) at step 1"):
        run(fused_model, stage("gate", steps=3), validation=None)
    assert all(torch.isfinite(weights).all() for weights in weights_of(fused_model).values())


def test_a_batch_is_read_in_parts_on_a_cpu_left_to_itself(monkeypatch):
    from ultrafuser.training.arguments import micro_batches

    assert [micro_batches(stage(), examples, True) for examples in (3, 4, 6, 12, 15, 18, 192)] == [1, 1, 2, 4, 3, 3, 4]
    assert micro_batches(stage(), 12, False) == 1
    assert micro_batches(stage(accumulation=2), 12, True) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert micro_batches(stage(), 12, True) == 1
