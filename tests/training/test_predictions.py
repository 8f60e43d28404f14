"""Stored predictions: the loss, and the gate's gradient, are those of the online path, and no head runs in a step."""

import copy
import json

import pytest
import torch
from tiny_runs import stage

from ultrafuser.data import ResponseCollator
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.recipe import StageConfig
from ultrafuser.training import evaluate_response_loss, predictions, stored_fusion, stored_loss
from ultrafuser.training.evaluation import evaluate_stored
from ultrafuser.training.points import merge_tokens
from ultrafuser.training.predictions import choose_kind, expected_bytes, store_predictions
from ultrafuser.training.stored import StoredCollator, store_states
from ultrafuser.training.stored_fusion import fused_from_states
from ultrafuser.training.stored_loss import Points, points_loss

KINDS = {"labels": "probabilities", "logits": "logits", "points": "logits"}
BATCH = [5, 0, 20, 11]


@pytest.fixture
def from_disk(train_data, tmp_path):
    """`from_disk(model, kind)`: the training data's stored states and predictions."""

    def store(model, kind, data=train_data):
        states = store_states(model, data, tmp_path / "states")
        states.predictions = store_predictions(model, states, kind)
        return states

    return store


@pytest.fixture
def no_head(monkeypatch):
    """`no_head(model)`: from now on a head that runs is an error."""

    def refuse(*_):
        raise AssertionError("a head ran")

    def forbid(model):
        monkeypatch.setattr(type(model), "heads", property(refuse))

    return forbid


def gate_gradient(model, total):
    model.gate.zero_grad()
    total.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.gate.parameters()])


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("gate", ["token", "joint", "evidence", "constant"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_the_loss_and_gradient_of_the_online_path(
    make_llama, train_data, from_disk, no_head, kind, gate, top_k
):
    models = {name: make_llama(seed) for seed, name in enumerate(("text", "code", "math"))}
    fusion = {"rule": KINDS[kind], "top_k": top_k}
    model = UltraFuserForCausalLM.from_specialists(models, templates=["plain"] * 3, gate=gate, fusion=fusion)
    scale = 0.1 if gate == "evidence" else 1.0  # it reads numbers that differ in the last digits
    with torch.no_grad():  # away from equal weights, and specialists that differ
        for parameter in model.gate.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        model.specialist(1).get_output_embeddings().weight.mul_(8)
    for specialist in model.specialists:
        specialist.requires_grad_(False)
    states = from_disk(model, kind)
    if gate == "evidence":
        states.evidence = store_predictions(model, states, "evidence")
    online = model(**ResponseCollator(0)([train_data[i] for i in BATCH]))
    expected = gate_gradient(model, online.token_loss.sum())
    batch = StoredCollator(states)([states[i] for i in BATCH])
    no_head(model)
    offline = fused_from_states(model, batch["hidden"], batch["labels"], batch["known"])
    assert torch.allclose(offline.token_loss, online.token_loss, atol=1e-5, rtol=1e-6)
    assert torch.allclose(offline.gate_weights, online.gate_weights, atol=1e-6)
    assert torch.allclose(gate_gradient(model, offline.total), expected, atol=1e-4, rtol=1e-4)
    assert offline.bound <= 1e-5


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_step_in_parts_equals_the_plain_way(fused_model, train_data, from_disk, monkeypatch, top_k):
    fused_model.config.fusion["top_k"] = top_k
    states = from_disk(fused_model, "logits")
    batch = StoredCollator(states)([states[i] for i in BATCH])
    monkeypatch.setattr(stored_loss, "PIECE", 5 * fused_model.config.vocab_size)
    quick = fused_from_states(fused_model, batch["hidden"], batch["labels"], batch["known"])
    gradient = gate_gradient(fused_model, 0.5 * quick.total)
    monkeypatch.setattr(stored_fusion, "serves", lambda *_: False)
    plain = fused_from_states(fused_model, batch["hidden"], batch["labels"], batch["known"])
    assert torch.allclose(quick.token_loss, plain.token_loss, atol=1e-6)
    assert torch.allclose(quick.gate_weights, plain.gate_weights, atol=1e-6)
    assert torch.allclose(2 * gradient, gate_gradient(fused_model, plain.total), atol=1e-4, rtol=1e-4)


def test_evidence_that_is_not_stored_is_read_by_the_heads(make_llama, train_data, from_disk):
    models = {name: make_llama(seed) for seed, name in enumerate(("text", "code", "math"))}
    model = UltraFuserForCausalLM.from_specialists(models, templates=["plain"] * 3, gate="evidence")
    states = from_disk(model, "logits")
    batch = StoredCollator(states)([states[i] for i in BATCH])
    offline = fused_from_states(model, batch["hidden"], batch["labels"], batch["known"])
    online = model(**ResponseCollator(0)([train_data[i] for i in BATCH]))
    assert torch.allclose(offline.gate_weights, online.gate_weights, atol=1e-5)


@pytest.mark.parametrize("gate", ["evidence", {"type": "token", "temperature": 0.5, "learn_temperature": True}])
def test_a_stage_of_another_gate_from_predictions_equals_an_online_stage(make_llama, run, tmp_path, gate):
    """All of the gate learns alike, and heads do not run in a step."""
    models = {name: make_llama(seed) for seed, name in enumerate(("text", "code", "math"))}
    model = UltraFuserForCausalLM.from_specialists(models, templates=["plain"] * 3, gate=gate)
    other, given = copy.deepcopy(model), stage("gate", steps=6, learning_rate=3e-3)
    online = run(model, given)
    offline = run(other, StageConfig(**(given.model_dump() | {"stored_states": "exact"})), output=tmp_path / "b")
    for mine, theirs in zip(offline.history, online.history, strict=True):
        if "loss" in mine:
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    for (name, mine), theirs in zip(other.gate.named_parameters(), model.gate.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_from_predictions_equals_an_online_stage(fused_model, run, tmp_path, monkeypatch, kind):
    fused_model.config.fusion["rule"] = KINDS[kind]
    if kind == "points":
        monkeypatch.setattr(predictions, "SMALL_VOCABULARY", 0)
    other, given = copy.deepcopy(fused_model), stage("gate", steps=6, learning_rate=3e-3)
    online = run(fused_model, given)
    offline = run(other, StageConfig(**(given.model_dump() | {"stored_states": "exact"})), output=tmp_path / "b")
    record = offline.stages[0].stored
    assert record["predictions"] == kind
    assert record["gigabytes"] > 0
    assert 0 <= record["loss_bound"] <= 1e-5
    for mine, theirs in zip(offline.history, online.history, strict=True):
        for key in ("loss", "eval_loss", "eval_loss_code"):
            assert mine.get(key) == pytest.approx(theirs.get(key), abs=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_from_predictions_equals_validation(fused_model, train_data, from_disk, kind, no_head):
    fused_model.config.fusion["rule"] = KINDS[kind]
    expected = evaluate_response_loss(fused_model, train_data)
    states = from_disk(fused_model, kind)
    no_head(fused_model)
    found = evaluate_stored(fused_model, states, batch_size=4)
    assert found.by_category() == pytest.approx(expected.by_category(), abs=1e-5)
    assert found.mean_weights()["code"] == pytest.approx(expected.mean_weights()["code"], abs=1e-5)


def random_logs(seed, n, vocabulary, rows=12):
    """Log probabilities with peaks, flat tails and specialists that agree more or less, N tensors (rows, V) float32."""
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, vocabulary, generator=draw) * 4
    spread = torch.rand(rows, 1, generator=draw) * 2
    return [(shared + spread * torch.randn(rows, vocabulary, generator=draw)).log_softmax(-1) for _ in range(n)]


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize(("side", "lump"), [(0.02, 2e-6), (0.3, 1e-3), (2.0, 0.1)])
def test_the_bound_bounds(n, side, lump):
    """Against float64 sums over all tokens, also where merging is far too coarse."""
    for seed in range(4):
        logs = random_logs(seed, n, 3000)
        merged = merge_tokens(logs, side, lump)
        labels = torch.randint(3000, (12, 1), generator=torch.Generator().manual_seed(seed))
        own = torch.cat([x.gather(1, labels) for x in logs], 1)
        concentration = torch.full((n,), 0.5)
        torch.manual_seed(seed)
        for weights in torch.distributions.Dirichlet(concentration).sample((6, 12)):
            loss, bound = points_loss(weights, Points(merged.values, merged.counts, own, merged.gaps))
            fused = sum(w[:, None] * x.double() for w, x in zip(weights.double().T, logs, strict=True))
            error = loss.double() - (fused.logsumexp(-1) - fused.gather(1, labels).squeeze(1))
            assert (error > -2e-6).all(), "the mass of the points is never too small"
            assert (error <= bound + 2e-6).all()


def test_merging_keeps_each_specialists_mass_and_few_points():
    logs = random_logs(0, 3, 20_000)
    merged = merge_tokens(logs)
    assert merged.counts.sum() == len(merged.values[0]) < 12 * 20_000 / 2
    totals = torch.segment_reduce(merged.values[0].double().exp(), "sum", lengths=merged.counts)
    assert torch.allclose(totals, torch.ones(12, dtype=torch.float64), atol=1e-5)


def test_positions_that_are_not_known_well_enough_are_left_to_the_heads(
    fused_model, train_data, from_disk, monkeypatch
):
    monkeypatch.setattr(predictions, "merge_tokens", lambda logs: merge_tokens(logs, 5.0, 0.5))
    states = from_disk(fused_model, "points")
    batch = StoredCollator(states)([states[i] for i in BATCH])
    weights = fused_model.gate(batch["hidden"]).softmax(-1)
    assert points_loss(weights, Points(**batch["known"]))[1].max() > 1e-3
    offline = fused_from_states(fused_model, batch["hidden"], batch["labels"], batch["known"])
    online = fused_model(**ResponseCollator(0)([train_data[i] for i in BATCH]))
    assert offline.bound <= 1e-5
    assert torch.allclose(offline.token_loss, online.token_loss, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_storing_goes_on_where_it_was_interrupted(fused_model, train_data, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(predictions, "HELD", 4 * 3 * fused_model.config.vocab_size * 30)
    states = store_states(fused_model, train_data, tmp_path)
    other = store_states(fused_model, train_data, tmp_path / "whole")
    whole = store_predictions(fused_model, other, kind)

    def stop(done, total):
        if done >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_predictions(fused_model, states, kind, progress=stop)
    with (states.folder / kind / "0.bin").open("ab") as file:
        file.write(b"half a row")  # what a kill leaves
    told = []
    again = store_predictions(fused_model, states, kind, progress=lambda *now: told.append(now))
    assert told[0][0] == 90
    assert told[-1] == (states.rows, states.rows)
    for i in range(whole.n_files()):
        assert again.path(i).read_bytes() == whole.path(i).read_bytes()
    store_predictions(fused_model, states, kind, progress=lambda *_: pytest.fail("stored again"))


def test_predictions_of_other_weights_are_not_used(fused_model, train_data, tmp_path):
    states = store_states(fused_model, train_data, tmp_path)
    store_predictions(fused_model, states, "labels")
    record = states.folder / "labels" / "done.json"
    with torch.no_grad():
        fused_model.specialist(1).get_output_embeddings().weight.mul_(2)
    assert store_states(fused_model, train_data, tmp_path).folder != states.folder
    record.write_text(json.dumps(json.loads(record.read_text()) | {"key": "another"}))
    told = []
    store_predictions(fused_model, states, "labels", progress=lambda *now: told.append(now))
    assert told, "a record of another key was believed"


def test_the_kind_follows_rule_vocabulary_and_room(fused_model, train_data, tmp_path, monkeypatch):
    states = store_states(fused_model, train_data, tmp_path)
    assert choose_kind(fused_model, states.rows, tmp_path / "not" / "there") == "logits"
    assert expected_bytes(fused_model, states, "logits") == states.rows * 3 * fused_model.config.vocab_size * 4
    monkeypatch.setattr(predictions, "room", lambda _: 1000)
    assert choose_kind(fused_model, states.rows, tmp_path) == "points"
    fused_model.config.fusion["rule"] = "probabilities"
    assert choose_kind(fused_model, states.rows, tmp_path) == "labels"
    assert expected_bytes(fused_model, states, "labels") == states.rows * 12


def test_without_room_the_heads_run(fused_model, run, monkeypatch):
    from ultrafuser.training import run as run_module

    monkeypatch.setattr(run_module, "room", lambda _: 1000)
    said = []
    result = run(fused_model, stage("gate", stored_states="exact"), say=said.append)
    assert result.stages[0].stored["predictions"] is None
    assert any("the heads run at every step" in line for line in said)


def test_a_batch_without_predictions_asks_the_heads(fused_model, train_data, tmp_path):
    states = store_states(fused_model, train_data, tmp_path)
    batch = StoredCollator(states)([states[i] for i in BATCH])
    assert batch["known"] is None
    assert fused_from_states(fused_model, batch["hidden"], batch["labels"]).bound == 0
