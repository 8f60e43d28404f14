"""What each stage changes and leaves alone, what it records, and the state a model is left in."""

import copy
import json

import pytest
import torch
from tiny_runs import stage
from transformers import TrainerCallback

from ultrafuser.modeling.gate import ConstantGate


def changed(before, after):
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


SPECIALISTS = {"specialist0", "specialist1", "specialist2"}


@pytest.mark.parametrize(
    ("what", "expected"), [("gate", {"gate"}), ("all", {"gate", *SPECIALISTS}), ("specialists", SPECIALISTS)]
)
def test_a_stage_changes_what_it_trains_and_not_a_bit_more(fused_model, run, weights_of, what, expected):
    before = weights_of(fused_model)
    run(fused_model, stage(what))
    assert changed(before, weights_of(fused_model)) == expected


def test_frozen_specialists_are_in_eval_mode_and_without_graph(fused_model, run):
    seen = []

    def look(module, inputs, output):
        seen.append((module.training, output.last_hidden_state.requires_grad, torch.is_grad_enabled()))

    fused_model.specialist(0).base_model.register_forward_hook(look)
    run(fused_model, stage("gate", steps=2), validation=None)
    assert seen
    assert not any(training or graph for training, graph, _ in seen)
    seen.clear()
    run(fused_model, stage("all", steps=2), validation=None, resume=False)
    assert all(training and graph for training, graph, _ in seen)


def test_checkpoints_hold_what_learns_and_only_two_stay(fused_model, run, tmp_path):
    from safetensors.torch import load_file

    sizes = {}

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            from pathlib import Path

            folder = Path(args.output_dir)
            sizes[state.global_step] = sorted(p.name for p in folder.iterdir() if p.name.startswith("checkpoint"))
            names = set(load_file(folder / f"checkpoint-{state.global_step}" / "weights.safetensors"))
            assert names == {"gate.inner.weight", "gate.inner.bias", "gate.outer.weight"}

    run(fused_model, stage("gate", steps=5, save_every=1), callbacks=[Look()])
    assert sizes == {
        1: ["checkpoint-1"],
        2: ["checkpoint-1", "checkpoint-2"],
        3: ["checkpoint-2", "checkpoint-3"],
        4: ["checkpoint-3", "checkpoint-4"],
        5: ["checkpoint-4", "checkpoint-5"],
    }
    left = sorted(p.name for p in (tmp_path / "run/work/1-gate/").iterdir())
    assert left == ["best", "checkpoint-5", "done.json"]
    assert sorted(p.name for p in (tmp_path / "run/work/1-gate/checkpoint-5").iterdir()) == [
        "trainer_state.json",
        "weights.safetensors",
    ], "a stage that is done keeps no optimiser state"


def test_the_model_is_left_as_it_was_found(fused_model, run):
    fused_model.eval()
    use_cache = fused_model.config.use_cache
    run(fused_model, stage("gate", steps=1), stage("all", steps=1, gradient_checkpointing=True))
    assert all(parameter.requires_grad for parameter in fused_model.parameters())
    assert not any(module.training for module in fused_model.modules())
    assert fused_model.config.use_cache == use_cache is True
    assert not any(getattr(module, "gradient_checkpointing", False) for module in fused_model.modules())
    ids = torch.tensor([[0, 5, 6]])
    assert fused_model.generate(input_ids=ids, max_new_tokens=2, do_sample=False).shape[1] > 3


def test_gradient_checkpointing_gives_the_same_weights(fused_model, run, weights_of):
    other = copy.deepcopy(fused_model)
    run(fused_model, stage("all", steps=2), validation=None)
    run(other, stage("all", steps=2, gradient_checkpointing=True), validation=None, resume=False)
    for name, weights in weights_of(other).items():
        assert torch.allclose(weights, weights_of(fused_model)[name], atol=1e-6), name


def test_what_is_recorded(fused_model, run, tmp_path, validation_data):
    from ultrafuser.training import evaluate_response_loss

    before = evaluate_response_loss(fused_model, validation_data).by_category()
    result = run(fused_model, stage("gate"), stage("all", steps=3, eval_every=0), tensorboard=True)
    first, second = result.stages
    assert first.before == pytest.approx(before)
    assert second.before == first.after
    after = evaluate_response_loss(fused_model, validation_data)
    assert second.after == pytest.approx(after.by_category())
    assert second.gate_weights["code"] == pytest.approx(after.mean_weights()["code"])
    assert {(e["stage"], e["step"]) for e in result.history if "eval_loss" in e} == {
        ("gate", 0),
        ("gate", 2),
        ("gate", 4),
        ("all", 3),
    }
    evaluations = [e for e in result.history if "eval_loss" in e and e["stage"] == "gate" and e["step"]]
    assert first.best["eval_loss"] == min(e["eval_loss"] for e in evaluations)
    assert evaluations[0]["eval_loss"] == pytest.approx(
        sum(evaluations[0][f"eval_loss_{d}"] for d in ("text", "code", "math")) / 3
    )
    lines = [json.loads(line) for line in (tmp_path / "run/work/history.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert list((tmp_path / "run/work/tensorboard").glob("events.*"))
    training = fused_model.config.gate_training
    assert training["trained"] is True
    assert [s["name"] for s in training["stages"]] == ["gate", "all"]
    assert training["data"]["math"]["examples"] == 11


def test_keep_best_hands_on_the_best_weights(fused_model, run, weights_of, validation_data):
    from ultrafuser.training import evaluate_response_loss

    wild = stage("all", steps=6, eval_every=1, learning_rate=0.3, schedule="constant")
    result = run(fused_model, wild, keep="best")
    (only,) = result.stages
    losses = {e["step"]: e["eval_loss"] for e in result.history if "eval_loss" in e and e["step"]}
    assert only.best["step"] == min(losses, key=losses.get)
    assert only.best["step"] < 6, "choose a rate that overshoots, or this shows nothing"
    assert evaluate_response_loss(fused_model, validation_data).mean() == pytest.approx(only.best["eval_loss"])


def test_forced_weights_train_the_specialists_without_the_gate(fused_model, run, weights_of):
    before = weights_of(fused_model)
    result = run(fused_model, stage("specialists"), forced_gate_weights=[1, 0, 0])
    assert changed(before, weights_of(fused_model)) == {"specialist0"}
    assert fused_model.config.gate_training["trained"] is False
    assert result.stages[0].gate_weights["math"] == {"text": 1.0, "code": 0.0, "math": 0.0}
    assert result.warnings == [], "a forced weight is no collapse"


def test_collapse_is_said_once(fused_model, run, caplog):
    with torch.no_grad():
        fused_model.gate.outer.weight.zero_()

    onesided = ConstantGate([specialist.config.hidden_size for specialist in fused_model.specialists])
    onesided.logits.data = torch.tensor([9.0, 0.0, 0.0])
    fused_model.gate = onesided
    result = run(fused_model, stage("gate", learning_rate=1e-6), validation=None)
    assert len(result.warnings) == 3
    assert "collapsed onto specialist 'text'" in result.warnings[0]
    assert "hardly uses specialist 'code'" in result.warnings[1]
    assert sum("collapsed" in record.getMessage() for record in caplog.records) == 1
    assert sum(len(e.get("warnings", [])) for e in result.history) == 3


def test_after_stage_sees_each_stage_restored_ones_too(fused_model, run, weights_of):
    seen = {}

    def note(run_name):
        return lambda done, model: seen.setdefault(run_name, []).append((done.name, weights_of(model)))

    stages = (stage("gate", steps=2), stage("all", steps=2))
    again = copy.deepcopy(fused_model)
    run(fused_model, *stages, after_stage=note("first"))
    run(again, *stages, after_stage=note("second"))
    assert [name for name, _ in seen["second"]] == ["gate", "all"]
    for (_, one), (_, two) in zip(seen["first"], seen["second"], strict=True):
        assert not changed(one, two)
    assert not changed(weights_of(fused_model), weights_of(again))


def test_same_seed_same_weights_other_seed_others(fused_model, run, weights_of, tmp_path):
    models = [copy.deepcopy(fused_model) for _ in range(3)]
    for place, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True)):
        run(model, stage("gate"), seed=seed, output=tmp_path / str(place))
    one, two, three = map(weights_of, models)
    assert not changed(one, two)
    assert changed(one, three) == {"gate"}


def test_bfloat16_specialists_learn_in_float32_and_go_back(fused_model, run, weights_of):
    for specialist in fused_model.specialists:
        specialist.to(torch.bfloat16)
    before = weights_of(fused_model)
    formats = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            formats.append(next(model.specialist(0).parameters()).dtype)

    result = run(fused_model, stage("gate", steps=1), stage("all", steps=2, learning_rate=1e-3), callbacks=[Look()])
    assert formats == [torch.bfloat16, torch.float32, torch.float32]
    assert {p.dtype for p in fused_model.specialist(0).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in fused_model.gate.parameters()} == {torch.float32}
    assert changed(before, weights_of(fused_model)) == {"gate", *SPECIALISTS}
    assert result.stages[1].after["text"] < result.stages[1].before["text"]
    assert "forward" not in vars(fused_model), "the mixed-precision wrapper is taken off again"
