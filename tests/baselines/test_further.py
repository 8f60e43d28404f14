"""A specialist tuned further: the demo's comparator, the choice on validation, subsets, resuming, errors."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from ultrafuser.baselines import find_baseline
from ultrafuser.baselines.making import make_baseline, read_made
from ultrafuser.baselines.scores import Scores, measure

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))


def further(setting):
    return make_baseline(find_baseline("further-tuned")[0], setting)


def test_it_is_the_demos_comparator(tmp_path, weights_in):
    """On the demo's conversations, stage and steps the weights are the demo's own."""
    from micro import MICRO_PLAN, micro_sources

    from ultrafuser.baselines import Setting
    from ultrafuser.demo.parts import Context, _build, _train
    from ultrafuser.recipe import Recipe
    from ultrafuser.training.material import Conversations, encode

    context = Context(MICRO_PLAN, micro_sources(tmp_path / "sources"), tmp_path / "demo", lambda *progress: None)
    material = context.material
    theirs = _build(context, ["code"])
    _train(context, theirs, [MICRO_PLAN.specialists_stage("further")], {"further": "further_tuned"})
    files = context.sources.data
    recipe = Recipe(
        name="demo",
        specialists={name: {"source": str(folder)} for name, folder in material.folders.items()},
        data={name: {"train": [files[name]["train"]]} for name in material.folders},
        max_length=MICRO_PLAN.max_length,
        stages=[MICRO_PLAN.gate_stage(), MICRO_PLAN.full_stage()],
        device="cpu",
    )
    setting = Setting.from_recipe(recipe, tmp_path / "made", variant="code", steps=MICRO_PLAN.full_steps)
    talks = Conversations(material.train, material.validation, [c for c in material.heldout if c.category in files])
    encoded = encode(talks, recipe, list(setting.templates.values()), setting.tokenizer)
    made = further(replace(setting, conversations=talks, material=encoded))
    ours, wanted = weights_in(made.folder), dict(theirs.specialist(0).named_parameters())
    assert {name for name in wanted if name in ours} == set(ours)
    assert all(torch.equal(ours[name], wanted[name]) for name in ours)


def test_the_best_on_validation_is_chosen_and_the_result_is_an_ordinary_model(make_setting, weights_in, kin_folders):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    setting = make_setting()
    made = further(setting)
    losses = made.chosen["validation_losses"]
    means = {name: sum(measure(setting, kin_folders[name], "validation").by_domain().values()) / 3 for name in losses}
    assert made.chosen["specialist"] == min(means, key=means.get)
    assert means == pytest.approx({name: sum(row.values()) / 3 for name, row in losses.items()}, rel=1e-5)
    model, tokenizer = (kind.from_pretrained(made.folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert tokenizer.chat_template == setting.templates[made.chosen["specialist"]]
    assert sum(p.numel() for p in model.parameters()) == made.parameters_trained == made.parameters_used
    assert made.steps == setting.steps == 6
    before = weights_in(kin_folders[made.chosen["specialist"]])
    assert any(not torch.equal(before[name], tensor) for name, tensor in weights_in(made.folder).items())
    assert further(setting) == read_made(made.folder) == made  # done: nothing is trained again


def test_a_subset_leaves_the_other_domains_out_and_keeps_the_batch(make_setting):
    setting = make_setting("code/math", steps=2)
    made = further(setting)
    history = [json.loads(line) for line in (made.folder / "work/history.jsonl").read_text().splitlines()]
    assert {"eval_loss_text", "eval_loss_code", "eval_loss_math"} <= set(history[-1])
    math_only = setting.encoded([setting.templates["code"]], ["math"])
    assert math_only.train.counts() == {"math": setting.material.train.counts()["math"]}
    assert math_only.validation.categories == ["text", "code", "math"]
    assert "the data of math alone" in made.note


class Killer(TrainerCallback):
    """kill -9 after a step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_and_made_again_it_ends_with_the_same_weights(make_setting, weights_in, tmp_path):
    child = os.fork()
    if child == 0:
        try:
            further(make_setting("text", callbacks=[Killer()]))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    again = weights_in(further(make_setting("text", callbacks=[Watch()])).folder)
    assert seen[0] > 1
    assert seen[-1] == 6
    alone = weights_in(further(make_setting("text", folder=tmp_path / "alone")).folder)
    assert all(torch.equal(tensor, alone[name]) for name, tensor in again.items())


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("cod", r"variant: 'cod' is not one of code, math, text; did you mean 'code'"),
        ("code/maths", r"variant: 'maths' is not one of code, math, text; did you mean 'math'"),
    ],
)
def test_unknown_variants_are_refused_before_training(make_setting, variant, message):
    with pytest.raises(ValueError, match=message):
        further(make_setting(variant))


def test_the_choice_needs_validation_data(make_recipe, make_setting, talk_files):
    data = {domain: {"train": [files["train"]]} for domain, files in talk_files.items()}
    with pytest.raises(ValueError, match="the recipe has no validation data"):
        further(make_setting(recipe=make_recipe(data=data)))


def test_another_setting_in_the_folder_is_refused_then_replaced(make_setting):
    further(make_setting("text", steps=1))
    with pytest.raises(ValueError, match="holds the baseline 'further-tuned' of another setting; give --overwrite"):
        further(make_setting("code", steps=1))
    assert "code" in further(make_setting("code", steps=1, overwrite=True)).note


def test_the_specialists_own_folders_are_never_written_to(make_setting, kin_folders):
    for folder in (kin_folders["code"], kin_folders["code"].parent):
        with pytest.raises(ValueError, match=r"is or holds .*, which is read; choose another folder"):
            further(make_setting("text", folder=folder, overwrite=True))
    assert not (kin_folders["code"] / "baseline.json").exists()


def test_scores_go_through_json_and_add_up(make_setting, kin_folders):
    scores = measure(make_setting(), kin_folders["math"])
    again = Scores.from_dict(json.loads(json.dumps(scores.as_dict())))
    assert again == scores
    rows = [row for row in scores.rows if row.domain == "math"]
    assert scores.by_domain()["math"] == pytest.approx(sum(r.nats for r in rows) / sum(r.tokens for r in rows))
