"""Merges as baselines: what is chosen on validation, templates, grids that go on, errors before any work."""

import json

import pytest

from ultrafuser.baselines import BASELINES, merges
from ultrafuser.baselines.making import make_baseline
from ultrafuser.baselines.scores import measure


def make(name, setting):
    return make_baseline(BASELINES[name], setting)


def test_the_template_that_suits_the_merge_is_chosen(make_setting):
    setting = make_setting()
    made = make("average", setting)
    losses = made.chosen["validation_losses"]
    assert set(losses) == {f"average / {name}" for name in setting.names}
    means = {key: sum(row.values()) / 3 for key, row in losses.items()}
    assert f"average / {made.chosen['template']}" == min(means, key=means.get)
    found = measure(setting, made.folder, "validation").by_domain()
    assert found == pytest.approx(made.chosen["validation"], rel=1e-4)
    assert (made.parameters_trained, made.training_operations, made.steps) == (0, 0, 0)
    assert not [path for path in made.folder.iterdir() if path.is_dir()]


def test_every_pair_is_a_variant(make_setting, weights_in, kin_folders):
    assert merges.average_variants(["text", "code", "math"], []) == ("", "text+code", "text+math", "code+math")
    assert merges.average_variants(["a", "b"], []) == ("",)
    made = make("average", make_setting("text+math"))
    found, given = weights_in(made.folder), [weights_in(kin_folders[name]) for name in ("text", "math")]
    name = "model.embed_tokens.weight"
    assert (found[name] - (given[0][name] + given[1][name]) / 2).abs().max() < 1e-6
    assert "text, math" in made.note


def test_the_scale_is_chosen_and_a_grid_cut_short_goes_on(make_setting, monkeypatch):
    calls = []
    original = merges.add_to_base

    def stopping(*arguments, scale, **options):
        calls.append(scale)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, scale=scale, **options)

    monkeypatch.setattr(merges, "add_to_base", stopping)
    setting = make_setting()
    with pytest.raises(KeyboardInterrupt):
        make("task-arithmetic", setting)
    made = make("task-arithmetic", setting)
    assert calls[:3] == list(merges.SCALES[:3])
    assert calls[3:-1] == list(merges.SCALES[2:])  # the first two were kept
    assert made.chosen["choice"] == f"{calls[-1]:g}"
    losses = {key: sum(row.values()) for key, row in made.chosen["validation_losses"].items()}
    assert min(losses, key=losses.get).startswith(f"{made.chosen['choice']} / ")
    assert len(losses) == 3 * len(merges.SCALES)


def test_the_papers_scale_needs_no_choice(make_setting, make_recipe, talk_files):
    data = {domain: {"train": [files["train"]]} for domain, files in talk_files.items()}
    setting = make_setting("1.0", recipe=make_recipe(data=data))
    made = make("task-arithmetic", setting)
    assert made.chosen == {}
    assert "plus 1 times" in made.note
    with pytest.raises(ValueError, match="no validation data to choose on"):
        make("task-arithmetic", make_setting(recipe=make_recipe(data=data), overwrite=True))


@pytest.mark.parametrize("name", ["ties", "dare"])
def test_mergekits_methods_become_ordinary_models(make_setting, name, monkeypatch):
    pytest.importorskip("mergekit")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(merges, f"{name.upper()}_GRID", ((0.5, 0.5), (0.5, 1.0)))
    setting = make_setting()
    made = make(name, setting)
    assert made.chosen["choice"] in ("density 0.5, scale 0.5", "density 0.5, scale 1")
    assert made.chosen["choice"] in made.note
    AutoModelForCausalLM.from_pretrained(made.folder)
    assert AutoTokenizer.from_pretrained(made.folder).chat_template in setting.templates.values()


def test_mistakes_are_named_before_any_work(make_setting, make_recipe, monkeypatch, kin_folders):
    cases = [
        ("average", "text+cod", "variant: 'cod' is not one of"),
        ("average", "text+text", "must name two or more different specialists"),
        ("average", "text", "must name two or more different specialists"),
        ("task-arithmetic", "much", "variant: 'much' is not a number"),
    ]
    for name, variant, message in cases:
        with pytest.raises(ValueError, match=message):
            make(name, make_setting(variant, overwrite=True))
    with pytest.raises(ValueError, match="--base: this baseline starts from"):
        make("task-arithmetic", make_setting(base=None))
    alone = {"text": {"source": str(kin_folders["text"])}}
    with pytest.raises(ValueError, match="average needs at least two"):
        make("average", make_setting(recipe=make_recipe(specialists=alone)))
    monkeypatch.setattr("ultrafuser.baselines.making.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ties needs the package mergekit: pip install 'ultrafuser\[merge\]'"):
        make("ties", make_setting())


def test_a_finished_merge_is_read_not_made(make_setting):
    made = make("average", make_setting())
    file = made.folder / "model.safetensors"
    before = file.stat().st_mtime_ns
    assert make("average", make_setting()) == made
    assert file.stat().st_mtime_ns == before
    assert json.loads((made.folder / "baseline.json").read_text())["baseline"] == "average"
