"""One specialist alone, uniform and fixed mixtures, the control without a gate, and the fuser of copies."""

import math
from dataclasses import replace

import pytest
import torch

from ultrafuser.baselines import BASELINES
from ultrafuser.baselines.making import make_baseline
from ultrafuser.baselines.scores import measure, measure_model, open_made


def make(name, setting):
    return make_baseline(BASELINES[name], setting)


def test_a_specialist_alone_is_its_own_folder(make_setting, kin_folders):
    made = make("specialist", make_setting("code"))
    assert made.folder == kin_folders["code"].resolve()
    assert (made.parameters_trained, made.training_operations, made.steps) == (0, 0, 0)
    best = make("specialist", make_setting(folder=kin_folders["text"].parent / "unused"))
    assert best.chosen["specialist"] in kin_folders
    with pytest.raises(ValueError, match="variant: 'cod' is not one of"):
        make("specialist", make_setting("cod", overwrite=True))


def test_uniform_is_the_mean_of_the_logits(make_setting, tiny_tokenizer):
    """Against the specialists' own logits, token by token."""
    from transformers import AutoModelForCausalLM

    setting = make_setting()
    made = make("uniform", setting)
    row = measure(setting, made.folder).rows[0]
    example = setting.material.heldout[0]
    response = torch.tensor(example.responses[0]).long()
    logits = []
    for j, origin in enumerate(setting.origins.values()):
        model = AutoModelForCausalLM.from_pretrained(origin.path)
        ids = torch.cat([torch.tensor(example.prompts[j][0]).long(), response])[None]
        with torch.no_grad():
            logits.append(model(ids).logits[0, -len(response) - 1 : -1].double())
    log_p = torch.stack(logits).mean(0).log_softmax(-1)
    assert row.id == example.id
    assert row.nats == pytest.approx(-log_p.gather(1, response[:, None]).sum().item(), rel=1e-5)
    assert made.parameters_trained == made.training_operations == 0


def test_fixed_finds_the_best_constant_weights(make_setting):
    """Against a grid over the simplex, on the training data that it learns from."""
    setting = make_setting(steps=60)
    made = make("fixed", setting)
    assert sum(made.chosen["weights"].values()) == pytest.approx(1)
    model = open_made(setting, made.folder)
    train = replace(setting, material=replace(setting.material, heldout=setting.material.train))
    found = measure_model(train, model).mean()
    grid = [(a / 10, b / 10, (10 - a - b) / 10) for a in range(11) for b in range(11 - a)]
    best = min(measure_model(train, model, gate_weights=w).mean() for w in grid)
    equal = measure_model(train, model, gate_weights=[1 / 3] * 3).mean()
    assert found < equal
    assert found < best + 0.1 * (equal - best) + 1e-3
    assert made.parameters_trained == 3


def test_the_trained_uniform_is_the_demos_control(make_setting, weights_in):
    """Against the demo's own calls on the same data and stage."""
    from ultrafuser.modeling import UltraFuserForCausalLM
    from ultrafuser.training import run_stages

    setting = make_setting(steps=2)
    made = make("uniform-trained", setting)
    folders = {name: origin.path for name, origin in setting.origins.items()}
    theirs = UltraFuserForCausalLM.from_specialists(folders, templates=setting.templates, seed=0)
    data = setting.material
    run_stages(
        theirs, setting.tokenizer, [setting.stage("uniform")], data.train, data.validation, setting.folder / "theirs",
        seed=0, forced_gate_weights=[1 / 3] * 3, tensorboard=False,
    )  # fmt: skip
    ours, wanted = weights_in(made.folder), theirs.state_dict()
    names = [name for name in wanted if name.startswith("specialist") and name in ours]
    assert len(names) > 30
    assert all(torch.equal(ours[name], wanted[name]) for name in names)
    assert made.parameters_trained == made.parameters_used - 3


def test_copies_start_as_the_base_and_drift_apart(make_setting, weights_in, base_folder):
    made = make("copies", make_setting(steps=6))
    weights, base = weights_in(made.folder), weights_in(base_folder)
    layer = "model.layers.0.mlp.up_proj.weight"
    copies = [weights[f"specialist{j}.{layer}"] for j in range(3)]
    assert not torch.equal(copies[0], copies[1])
    assert not torch.equal(copies[1], copies[2])
    assert all((copy - base[layer]).abs().max() < 0.05 for copy in copies)
    assert "told apart by their templates" in made.note
    assert made.steps == 6


def test_copies_that_read_alike_are_set_apart_by_noise(make_recipe, make_setting, kin_folders):
    same = {name: {"source": str(folder), "template": "plain"} for name, folder in kin_folders.items()}
    setting = make_setting(recipe=make_recipe(specialists=same), steps=6)
    made = make("copies", setting)
    assert "noise set code, math apart" in made.note
    fused = open_made(setting, made.folder)
    first, second = (fused.specialist(j).get_input_embeddings().weight for j in range(2))
    assert (first - second).abs().max() > 0


def test_without_a_known_base_the_fix_is_named(make_setting):
    with pytest.raises(ValueError, match="--base: this baseline starts from the model that all specialists"):
        make("copies", make_setting(base=None))
    with pytest.raises(ValueError, match="--steps: 3 leaves none for the recipe's last stage 'all'"):
        make("copies", make_setting(steps=3))


def test_zoo_specialists_know_their_base(make_recipe, tmp_path):
    from ultrafuser import zoo
    from ultrafuser.baselines import Setting

    recipe = make_recipe(specialists={name: {"source": f"zoo:{name}"} for name in zoo.SPECIALISTS})
    setting = Setting.from_recipe(
        recipe, tmp_path, resolve=lambda source: str(zoo.path(source.removeprefix("zoo:"))), steps=1
    )
    assert setting.base.path == zoo.path("base").resolve()
    assert math.isfinite(sum(p.sum().item() for p in setting.open_base().parameters()))
