"""The parts of training apart from models: gate health, history, working folder, progress, data of a recipe."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from ultrafuser.training.health import GateHealth, collapse_warnings
from ultrafuser.training.history import History, write_json
from ultrafuser.training.progress import Progress
from ultrafuser.training.work import differences, finish_run, is_unfinished, locked, open_work, publish_folder


def test_health_by_hand():
    health = GateHealth(["a", "b", "c"], ["x", "y"])
    assert health.take() == {}
    weights = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.0, 0.0]]])
    labels = torch.tensor([[4, 5], [6, -100]])
    losses = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    health.add(torch.tensor([0, 1]), labels, losses, weights)
    health.add(torch.tensor([1]), torch.tensor([[7]]), torch.tensor([[4.0]]), torch.tensor([[[0.4, 0.6]]]))
    found = health.take()
    assert (found["loss_a"], found["loss_b"]) == (2.0, 3.0)
    assert "loss_c" not in found
    assert found["gate_weights"]["a"] == pytest.approx({"x": 0.7, "y": 0.3})
    assert found["gate_weights"]["b"] == pytest.approx({"x": 0.3, "y": 0.7})
    entropy = torch.distributions.Categorical(torch.tensor([[0.9, 0.1], [0.5, 0.5]])).entropy().mean()
    assert found["gate_entropy"]["a"] == pytest.approx(float(entropy), abs=1e-5)
    assert health.take() == {}, "each window starts anew"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": (0.5, 0.5), "b": (0.995, 0.005)}, {}),
        ({"a": (0.995, 0.005), "b": (0.999, 0.001)}, {"x": "collapsed", "y": "hardly"}),
        ({"a": (0.995, 0.005), "b": (0.989, 0.011)}, {}),
        ({"a": (1.0,), "b": (1.0,)}, {}),
        ({}, {}),
    ],
)
def test_collapse(rows, said):
    given = {domain: dict(zip("xy", row, strict=False)) for domain, row in rows.items()}
    found = collapse_warnings(given)
    assert found.keys() == said.keys()
    assert all(said[name] in found[name] for name in said)


def test_history_survives_a_torn_line_and_forgets_what_is_done_again(tmp_path):
    file = tmp_path / "history.jsonl"
    history = History(file)
    for stage, step in (("one", 1), ("one", 2), ("two", 1), ("two", 5), ("three", 1)):
        history.append({"stage": stage, "step": step})
    with file.open("a") as out:
        out.write('{"stage": "three", "st')
    again = History(file)
    assert len(again.entries) == 5
    again.forget(["one", "two", "three"], "two", after=1)
    assert [(e["stage"], e["step"]) for e in History(file).entries] == [("one", 1), ("one", 2), ("two", 1)]
    again.append({"stage": "two", "step": 2})
    assert file.read_text().endswith('"step": 2}\n')
    assert again.of("two") == History(file).of("two") == [{"stage": "two", "step": 1}, {"stage": "two", "step": 2}]


def test_differences_name_the_path_and_both_values():
    old = {"stages": [{"steps": 1, "name": "a"}], "seed": 0, "gone": 1}
    new = {"stages": [{"steps": 2, "name": "a"}], "seed": 0, "new": "x"}
    assert differences(old, new) == ["stages[0].steps: 1 -> 2", "gone: 1 -> null", 'new: null -> "x"']
    assert differences(old, old) == []
    assert differences({"stages": [1]}, {"stages": [1, 2]}) == ["stages: [1] -> [1, 2]"]


def test_a_folder_is_published_whole_over_an_older_one(tmp_path):
    for text in ("old", "new"):
        staged = tmp_path / ".it.part"
        staged.mkdir()
        (staged / text).write_text(text)
        publish_folder(staged, tmp_path / "it")
    assert [p.name for p in (tmp_path / "it").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


def test_finish_keeps_what_is_of_use_and_small(tmp_path):
    work = open_work(tmp_path, {"seed": 0}, resume=True, overwrite=False)
    assert is_unfinished(tmp_path)
    for place, (train, best) in enumerate((("gate", 4), ("all", 2), ("specialists", 4)), start=1):
        folder = work / f"{place}-{train}"
        for name in ("checkpoint-4", "best"):
            (folder / name).mkdir(parents=True)
            (folder / name / "weights.safetensors").write_bytes(b"")
            (folder / name / "trainer_state.json").write_text("{}")
        record = {"train": train, "steps": 4, "best": {"step": best}, "weights": "checkpoint-4"}
        write_json(folder / "done.json", record)
    finish_run(tmp_path)
    assert not is_unfinished(tmp_path)
    left = sorted(str(p.relative_to(work)) for p in work.glob("*/*") if p.is_dir())
    assert left == ["1-gate/checkpoint-4", "2-all/best"]
    chosen = work / "4-all"
    for name in ("best", "checkpoint-4"):
        (chosen / name).mkdir(parents=True)
    write_json(chosen / "done.json", {"train": "all", "steps": 4, "best": {"step": 2}, "weights": "best"})
    finish_run(tmp_path)
    assert not (chosen / "best").exists(), "the saved model holds these"
    open_work(tmp_path, {"seed": 1}, resume=True, overwrite=False)
    assert not list(work.glob("*-*")), "a new run clears what a finished one left"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_a_terminal_and_in_a_log(terminal):
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=terminal, width=100, color_system=None))
    args = SimpleNamespace(output_dir="runs/x/work/2-all-of-it")
    state = SimpleNamespace(global_step=10, max_steps=40, is_world_process_zero=True)
    progress.on_train_begin(args, state, None)
    for step in range(11, 41):
        state.global_step = step
        progress.on_log(args, state, None, {"loss": 1.5})
        progress.on_step_end(args, state, None)
    progress.on_log(args, state, None, {"eval_loss": 2.0, "eval_loss_text": 1.25, "eval_loss_code": 2.75})
    progress.on_train_end(args, state, None)
    said = out.getvalue()
    assert "stage all-of-it: going on after step 10" in said
    assert "stage all-of-it, step 40: validation text 1.2500, code 2.7500" in said
    assert "loss 1.5000" in said
    assert ("40/40" in said) is terminal
    assert (said.count(" of 40") == 8) is not terminal


def test_split_keeps_families_together():
    from ultrafuser.data import Conversation, split_validation

    def talk(i, family):
        return Conversation(
            str(i),
            "text",
            [{"role": "user", "content": f"q{i // 2}"}, {"role": "assistant", "content": str(i)}],
            family,
        )

    families = [talk(i, f"f{i % 7}") for i in range(70)]
    train, validation = split_validation(families, 0.2)
    assert not {c.family for c in train} & {c.family for c in validation}
    assert len(train) + len(validation) == 70
    assert 10 <= len(validation) <= 28
    backwards = split_validation(families[::-1], 0.2)[1]
    assert {c.id for c in backwards} == {c.id for c in validation}, "the order plays no part"
    assert {c.id for c in split_validation(families, 0.2, seed=1)[1]} != {c.id for c in validation}
    prompts = [talk(i, None) for i in range(40)]
    train, validation = split_validation(prompts, 0.25)
    assert len(validation) == 10
    assert not {c.messages[0]["content"] for c in train} & {c.messages[0]["content"] for c in validation}
    for few in ([talk(0, "f")], [talk(i, "f") for i in range(9)], []):
        with pytest.raises(ValueError, match="validation_fraction"):
            split_validation(few, 0.5)


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "a/b.json", {"x": 1})
    assert json.loads((tmp_path / "a/b.json").read_text()) == {"x": 1}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


def test_two_runs_do_not_share_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another run is at work"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
