"""FuseChat: its targets and their merge, what is chosen, kept and counted, going on after kill -9, errors."""

import os
import signal

import pytest
import torch
from transformers import TrainerCallback

from ultrafuser.baselines import find_baseline, fusechat
from ultrafuser.baselines.making import make_baseline
from ultrafuser.baselines.scores import measure


def make(setting):
    return make_baseline(find_baseline("fusechat")[0], setting)


def test_the_targets_start_at_the_pivot_learn_and_are_merged(make_setting, weights_in, kin_folders, monkeypatch):
    monkeypatch.setattr(fusechat, "_drop_model", lambda folder: None)
    setting = make_setting()
    made = make(setting)
    pivot = made.chosen["pivot"]
    means = {name: sum(measure(setting, kin_folders[name], "validation").by_domain().values()) for name in kin_folders}
    assert pivot == min(means, key=means.get)
    sources = [name for name in kin_folders if name != pivot]
    start, found = weights_in(kin_folders[pivot]), weights_in(made.folder)
    targets = [weights_in(made.folder / "work" / f"target-{source}") for source in sources]
    assert any(not torch.equal(targets[0][name], targets[1][name]) for name in start)
    for name, tensor in found.items():
        squares = [((target[name] - start[name]).double() ** 2).mean().item() for target in targets]
        wanted = sum(s / sum(squares) * t[name].double() for s, t in zip(squares, targets, strict=True))
        assert torch.allclose(tensor.double(), wanted, atol=1e-6)
    assert made.steps == setting.steps == 6
    assert made.parameters_trained == 2 * made.parameters_used
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(made.folder).chat_template == setting.templates[pivot]


def test_a_finished_one_keeps_its_curves_and_no_targets(make_setting):
    setting = make_setting("code+linear", steps=3)
    made = make(setting)
    assert made.chosen["template"] == "code"
    assert made.chosen["validation"] == measure(setting, made.folder, "validation").by_domain()
    assert {file.parent.parent.name for file in made.folder.rglob("history.jsonl")} == {"target-text", "target-math"}
    assert {path.name for path in (made.folder / "work").iterdir()} == {"target-text", "target-math"}
    assert [file.parent for file in made.folder.rglob("*.safetensors")] == [made.folder]
    assert {file.name for file in (made.folder / "work").rglob("*") if file.is_file()} == {"history.jsonl"}
    assert "code as the pivot" in made.note
    assert "merged by their mean" in made.note


def test_a_budget_of_operations_is_shared_by_the_pairs(make_setting, tmp_path):
    plain = make(make_setting("text", steps=3))
    twice = make(make_setting("text", folder=tmp_path / "twice", operations=2 * plain.training_operations))
    assert twice.training_operations == pytest.approx(2 * plain.training_operations, rel=0.2)
    assert twice.steps == pytest.approx(6, abs=1)


class Killer(TrainerCallback):
    """kill -9 after so many steps in all trainings."""

    def __init__(self, steps):
        self.left = steps

    def on_step_end(self, args, state, control, **kwargs):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


class Watch(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(state.global_step)


def test_killed_within_a_pair_and_made_again_it_ends_with_the_same_weights(make_setting, weights_in, tmp_path):
    """Two pairs of six steps, saved at each, killed in the ninth: the step that was not saved is all that is redone."""
    child = os.fork()
    if child == 0:
        try:
            make(make_setting("text", callbacks=[Killer(9)]))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    watch = Watch()
    again = weights_in(make(make_setting("text", callbacks=[watch])).folder)
    assert watch.seen == [3, 4, 5, 6]
    alone = weights_in(make(make_setting("text", folder=tmp_path / "alone")).folder)
    assert all(torch.equal(tensor, alone[name]) for name, tensor in again.items())


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("cod", "variant: 'cod' is not one of code, math, text; did you mean 'code'"),
        ("code+ties", "variant: 'ties' is not one of linear, sce, varm"),
    ],
)
def test_unknown_variants_are_refused_before_training(make_setting, variant, message):
    with pytest.raises(ValueError, match=message):
        make(make_setting(variant))


def test_sce_without_mergekit_is_refused_before_training(make_setting, monkeypatch):
    monkeypatch.setattr(fusechat, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="variant: sce needs the package mergekit: pip install"):
        make(make_setting("code+sce"))


def test_the_share_that_sce_selects_is_chosen_on_validation(make_setting):
    pytest.importorskip("mergekit")
    made = make(make_setting("code+sce", steps=1))
    losses = made.chosen["validation_losses"]
    assert list(losses) == [f"SCE with the share {share} selected / code" for share in (0.1, 0.5, 1)]
    assert made.chosen["validation"] == min(losses.values(), key=lambda row: sum(row.values()))
