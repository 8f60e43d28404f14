"""Stored hidden states: what learns from them learns the same, and an interrupted store goes on."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import stage

from ultrafuser.data import ResponseCollator
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.recipe import StageConfig
from ultrafuser.training import evaluate_response_loss, stored
from ultrafuser.training.evaluation import evaluate_stored
from ultrafuser.training.stored import StoredCollator, bytes_needed, states_key, store_states
from ultrafuser.training.stored_fusion import fused_from_states


def with_stored(given, form="exact"):
    return StageConfig(**(given.model_dump() | {"stored_states": form}))


@pytest.fixture
def count_calls():
    """`count_calls(model)`: a list that grows by one each time the first specialist runs."""

    def watch(model):
        calls = []
        model.specialist(0).base_model.register_forward_hook(lambda *_: calls.append(1))
        return calls

    return watch


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_a_batch_has_the_loss_gradient_and_weights_of_the_online_path(fused_model, train_data, tmp_path, rule):
    fused_model.config.fusion["rule"] = rule
    for specialist in fused_model.specialists:
        specialist.requires_grad_(False)
    states = store_states(fused_model, train_data, tmp_path)
    indices = [5, 0, 20, 11]
    online = fused_model(**ResponseCollator(0)([train_data[i] for i in indices]))
    online.token_loss.sum().backward()
    gradients = [parameter.grad.clone() for parameter in fused_model.gate.parameters()]
    fused_model.gate.zero_grad()
    batch = StoredCollator(states)([states[i] for i in indices])
    offline = fused_from_states(fused_model, batch["hidden"], batch["labels"])
    offline.total.backward()
    assert torch.allclose(offline.token_loss, online.token_loss, atol=1e-5)
    assert torch.allclose(offline.gate_weights, online.gate_weights, atol=1e-6)
    for mine, parameter in zip(gradients, fused_model.gate.parameters(), strict=True):
        assert torch.allclose(parameter.grad, mine, atol=1e-4)


@pytest.mark.parametrize("loss", ["token_mean", "example_sum"])
def test_a_run_ends_with_the_gate_of_an_online_run(fused_model, run, tmp_path, loss, count_calls):
    other, given = copy.deepcopy(fused_model), stage("gate", steps=6, learning_rate=3e-3, loss=loss)
    online = run(fused_model, given)
    calls = count_calls(other)
    offline = run(other, with_stored(given), output=tmp_path / "stored")
    per_set = [-(-len(data) // 16) for data in (range(27), range(9))]
    assert len(calls) == sum(per_set), "the specialists ran more than once over the data"
    for name, mine in other.gate.named_parameters():
        difference = (mine - fused_model.gate.get_parameter(name)).abs()
        assert difference.max() < 3e-4, name  # Adam blows rounding up where a gradient is next to nothing
        assert difference.mean() < 1e-6, name
        assert (difference > 1e-5).float().mean() < 5e-3, name
    keys = ("loss", "eval_loss", "eval_loss_code")
    for mine, theirs in zip(offline.history, online.history, strict=True):
        assert {k: mine[k] for k in keys if k in mine} == pytest.approx(
            {k: theirs[k] for k in keys if k in theirs}, rel=1e-5
        )


def test_validation_from_states_equals_validation(fused_model, validation_data, tmp_path):
    found = evaluate_stored(fused_model, store_states(fused_model, validation_data, tmp_path), batch_size=4)
    expected = evaluate_response_loss(fused_model, validation_data)
    assert found.by_category() == pytest.approx(expected.by_category(), abs=1e-5)
    assert found.mean_weights()["code"] == pytest.approx(expected.mean_weights()["code"], abs=1e-5)
    assert [e.id for e in found.per_example] == [e.id for e in expected.per_example]


def test_storing_goes_on_where_it_was_interrupted(fused_model, train_data, tmp_path, monkeypatch, count_calls):
    monkeypatch.setattr(stored, "WINDOW", 2)
    whole = store_states(fused_model, train_data, tmp_path / "whole", batch_size=4)

    def stop(done, total):
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_states(fused_model, train_data, tmp_path / "part", batch_size=4, progress=stop)
    calls = count_calls(fused_model)
    again = store_states(fused_model, train_data, tmp_path / "part", batch_size=4)
    assert len(calls) == 3, "27 examples, 16 done: three batches are left"
    for mine, theirs in zip(again.arrays, whole.arrays, strict=True):
        assert torch.equal(mine, theirs)
    store_states(fused_model, train_data, tmp_path / "part", batch_size=4)
    assert len(calls) == 3, "all done: nothing runs"


def test_the_key_follows_data_specialists_and_format_but_not_the_gate(fused_model, train_data, validation_data):
    key = states_key(fused_model, train_data)
    with torch.no_grad():
        fused_model.gate.inner.weight.add_(1)
    assert states_key(fused_model, train_data) == key
    others = {states_key(fused_model, validation_data), states_key(fused_model, train_data, "bfloat16")}
    weight = next(fused_model.specialist(1).parameters())
    with torch.no_grad():
        weight.view(-1)[weight.numel() // 2] += 1e-3  # in the middle of a tensor
    others.add(states_key(fused_model, train_data))
    assert len(others - {key}) == 3


def test_the_key_follows_an_adapters_scaling(fused_model, train_data):
    key = states_key(fused_model, train_data)
    row = SimpleNamespace(layers={"model.layers.0.mlp.up_proj": (4, 2.0)})
    object.__setattr__(fused_model.specialist(0), "row", row)
    scaled = states_key(fused_model, train_data)
    row.layers = {"model.layers.0.mlp.up_proj": (4, 1.0)}
    assert len({key, scaled, states_key(fused_model, train_data)}) == 3


def test_sixteen_bits_take_half_the_space_and_learn_nearly_the_same(fused_model, train_data, run, tmp_path):
    exact, half = (bytes_needed(fused_model, train_data, form) for form in ("exact", "bfloat16"))
    assert exact == 2 * half == sum(train_data.response_tokens().values()) * sum(fused_model.config.hidden_sizes) * 4
    folder = store_states(fused_model, train_data, tmp_path / "states", form="bfloat16").folder
    assert sum(file.stat().st_size for file in folder.glob("*.bin")) == half
    other, given = copy.deepcopy(fused_model), stage("gate")
    online = run(fused_model, given, validation=None)
    offline = run(other, with_stored(given, "bfloat16"), validation=None, output=tmp_path / "half")
    assert offline.history[-1]["loss"] == pytest.approx(online.history[-1]["loss"], abs=0.05)


def test_specialists_of_unequal_width(make_llama, train_data, tmp_path):
    models = {"text": make_llama(1), "code": make_llama(2, hidden=32), "math": make_llama(3)}
    model = UltraFuserForCausalLM.from_specialists(models, templates=["plain"] * 3, gate="joint")
    states = store_states(model, train_data, tmp_path)
    assert [array.shape[1] for array in states.arrays] == [16, 32, 16]
    assert evaluate_stored(model, states).mean() == pytest.approx(evaluate_response_loss(model, train_data).mean())


def test_one_folder_serves_several_seeds(fused_model, run, tmp_path, count_calls):
    calls, shared = count_calls(fused_model), tmp_path / "states"
    said = []
    first = run(fused_model, with_stored(stage("gate")), validation=None, states_dir=shared, say=said.append)
    seen = len(calls)
    run(fused_model, with_stored(stage("gate")), validation=None, states_dir=shared, seed=1, output=tmp_path / "b")
    assert seen
    assert len(calls) == seen
    assert first.stages[0].steps == 4
    assert "GB in" in said[0]
    assert any("log probability of every token: about 0.00" in line for line in said)


def test_a_stage_of_all_after_it_and_the_states_of_a_finished_run(fused_model, run, tmp_path):
    from ultrafuser.training.work import finish_run

    run(fused_model, with_stored(stage("gate")), stage("all", steps=1))
    (record, _) = sorted((tmp_path / "run/work/states").glob("*/states.json"), key=lambda p: -p.parent.stat().st_size)
    assert json.loads(record.read_text())["done"] in (27, 9)
    finish_run(tmp_path / "run")
    assert not (tmp_path / "run/work/states").exists()


def test_a_disk_that_is_too_small_is_said_before_anything_runs(
    fused_model, train_data, tmp_path, monkeypatch, count_calls
):
    calls = count_calls(fused_model)
    usage = stored.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"stored_states: 0\.00 GB needed in .*, 0\.00 GB free; free some"):
        store_states(fused_model, train_data, tmp_path)
    assert not calls


def test_stored_states_are_for_the_gate_stage(fused_model, run, monkeypatch):
    with pytest.raises(ValueError, match=r"stored_states: 'exact' given, but train: all changes the specialists"):
        stage("all", stored_states="exact")
    monkeypatch.setattr(fused_model.config, "vocabularies", [9, 8, 7])
    with pytest.raises(ValueError, match=r"stages\.gate\.stored_states: the specialists' tokenizers differ"):
        run(fused_model, with_stored(stage("gate")))
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"stages\.gate\.stored_states: learns in one process, 2 were started"):
        run(fused_model, with_stored(stage("gate")))
