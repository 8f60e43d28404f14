"""Each mistake gives one clear error before anything is trained or removed."""

import copy

import pytest
from tiny_runs import dataset, stage

from ultrafuser.recipe import StageConfig


@pytest.mark.parametrize(
    ("stages", "options", "said"),
    [
        ((), {}, "stages: none given"),
        ((stage("gate"), stage("all", name="gate")), {}, "holds a name twice"),
        ((stage("gate"),), {"keep": "worst"}, "keep: 'worst' is not one of last, best"),
        ((stage("gate"),), {"keep": "best", "validation": None}, "keep: 'best' is chosen on validation data"),
        ((stage("gate"),), {"forced_gate_weights": [1, 0, 0]}, "stages.gate.train: 'gate' would train a gate"),
        ((stage("specialists"),), {"forced_gate_weights": [1, 0]}, "forced_gate_weights: 2 weights for 3"),
    ],
)
def test_settings(fused_model, run, tmp_path, stages, options, said):
    with pytest.raises(ValueError) as error:
        run(fused_model, *stages, **options)
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_one_category_is_too_few(fused_model, run, chat_templates, tiny_tokenizer, tmp_path):
    only = dataset(chat_templates.values(), tiny_tokenizer, 0, text=5)
    with pytest.raises(ValueError, match="data: text is the only category"):
        run(fused_model, stage("gate"), train=only)
    assert not (tmp_path / "run").exists()


def test_data_of_other_specialists(fused_model, run, chat_templates, tiny_tokenizer):
    two = dataset(list(chat_templates.values())[:2], tiny_tokenizer, 0)
    with pytest.raises(ValueError, match="train: encoded for 2 specialists of 3"):
        run(fused_model, stage("gate"), train=two)


def test_a_gate_over_one_specialist(specialist_folders, chat_templates, tiny_tokenizer, run):
    from ultrafuser.modeling import UltraFuserForCausalLM

    model = UltraFuserForCausalLM.from_specialists(
        {"text": specialist_folders["text"]}, templates={"text": chat_templates["text"]}
    )
    data = dataset([chat_templates["text"]], tiny_tokenizer, 0)
    with pytest.raises(ValueError, match="a gate over one specialist has nothing to learn"):
        run(model, stage("gate"), train=data, validation=None)
    before = copy.deepcopy(model)
    run(model, stage("specialists", steps=1), train=data, validation=None)
    assert not before.specialist(0).lm_head.weight.equal(model.specialist(0).lm_head.weight)


def test_processes_that_do_not_divide_the_batch(fused_model, run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(ValueError, match=r"stages.gate: 6 examples per batch cannot be cut .* 1 x 5 processes"):
        run(fused_model, stage("gate"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"accumulation": 3, "examples_per_category": 4}, "accumulation"),
        ({"loss": "sum"}, "loss"),
        ({"train": "gates"}, "train"),
    ],
)
def test_stage_settings_are_refused_by_the_recipe(change, field):
    with pytest.raises(ValueError, match=field):
        StageConfig(**({"name": "x", "train": "gate"} | change))


def test_small_category_is_warned_about(fused_model, run, chat_templates, tiny_tokenizer):
    few = dataset(chat_templates.values(), tiny_tokenizer, 0, text=9, code=1, math=9)
    with pytest.warns(UserWarning, match=r"data\.code: 1 examples for 2 of it per batch"):
        run(fused_model, stage("gate", steps=1), train=few, validation=None)


def test_a_finished_model_is_not_overwritten(fused_model, run, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"already holds a model.*--overwrite"):
        run(fused_model, stage("gate", steps=1))
    assert [p.name for p in output.iterdir()] == ["config.json"]
    run(fused_model, stage("gate", steps=1), overwrite=True)
    assert (output / "work/1-gate/done.json").is_file()


def test_a_changed_run_is_refused_and_says_what_changed(
    fused_model, run, chat_templates, tiny_tokenizer, tmp_path, specialist_folders
):
    first = copy.deepcopy(fused_model)
    run(first, stage("gate"), recipe={"specialists": {"text": "a"}})
    marker = (tmp_path / "run/work/1-gate/done.json").stat().st_mtime_ns

    def refused(said, *stages, **options):
        options = {"recipe": {"specialists": {"text": "a"}}} | options
        with pytest.raises(ValueError, match="unfinished run with other settings") as error:
            run(copy.deepcopy(fused_model), *(stages or [stage("gate")]), **options)
        assert said in str(error.value)

    refused("stages[0].learning_rate: 0.01 -> 0.02", stage("gate", learning_rate=0.02))
    refused("stages[0].steps: 4 -> 5", stage("gate", steps=5))
    refused("stages: ", stage("gate"), stage("all"))
    refused("seed: 0 -> 1", seed=1)
    refused('recipe.specialists.text: "a" -> "b"', recipe={"specialists": {"text": "b"}})
    refused(
        "train.examples.code: 7 -> 8",
        train=dataset(chat_templates.values(), tiny_tokenizer, 0, text=9, code=8, math=11),
    )
    refused("train.sha256", train=dataset(chat_templates.values(), tiny_tokenizer, 5))
    fused_model.specialist(1).lm_head.weight.data[0, 0] += 1
    refused("weights.specialist1")
    assert (tmp_path / "run/work/1-gate/done.json").stat().st_mtime_ns == marker


def test_what_does_not_change_the_result_may_change(fused_model, run):
    run(copy.deepcopy(fused_model), stage("gate"))
    again = run(fused_model, stage("gate", save_every=1, logging_steps=2, accumulation=2, gradient_checkpointing=True))
    assert again.stages[0].steps == 4


def test_start_anew_removes_the_run_and_nothing_else(fused_model, run, tmp_path):
    run(copy.deepcopy(fused_model), stage("gate", steps=1))
    (tmp_path / "run/work/notes.txt").write_text("mine")
    (tmp_path / "run/other").mkdir()
    run(fused_model, stage("gate", steps=2), overwrite=True)
    assert (tmp_path / "run/work/notes.txt").read_text() == "mine"
    assert (tmp_path / "run/other").is_dir()
    assert (tmp_path / "run/work/1-gate/checkpoint-2").is_dir()
    assert not (tmp_path / "run/work/1-gate/checkpoint-1").exists()


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), RuntimeError("I/O error: os error 28")])
def test_a_full_disk_is_said_clearly_and_leaves_the_last_checkpoint(fused_model, run, monkeypatch, tmp_path, raised):
    from ultrafuser.training.trainer import FuserTrainer

    whole = FuserTrainer._save_optimizer_and_scheduler

    def full_at_four(self, folder):
        if self.state.global_step == 4:
            raise raised
        whole(self, folder)

    first, second = copy.deepcopy(fused_model), fused_model
    monkeypatch.setattr(FuserTrainer, "_save_optimizer_and_scheduler", full_at_four)
    with pytest.raises(OSError, match=r"no space left for a checkpoint in .*1-gate; free some.* last whole checkpoint"):
        run(first, stage("gate"))
    left = sorted(p.name for p in (tmp_path / "run/work/1-gate").iterdir())
    assert left == ["best", "checkpoint-2"]
    monkeypatch.undo()
    assert run(second, stage("gate")).stages[0].steps == 4
