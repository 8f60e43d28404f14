"""The demo end to end on a micro trio: numbers, files, resuming, worker processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from micro import MICRO_PLAN, micro_sources

from ultrafuser.demo import DemoResult, load_result, run_demo
from ultrafuser.demo.parts import PARTS, best_base
from ultrafuser.demo.plan import open_folder
from ultrafuser.demo.results import COLUMNS, DOMAINS
from ultrafuser.demo.run import Progress
from ultrafuser.demo.statistics import loss_by_domain, sample_oracle

NAMES = ["text", "code", "math"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return micro_sources(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory):
    """Folder, result, details and progress of an undisturbed run."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    seen: list[Progress] = []
    result, details, stored = run_demo(folder, MICRO_PLAN, sources, in_process=True, on_progress=seen.append)
    assert not stored
    return folder, result, details, seen


def test_json_has_the_agreed_shape(finished) -> None:
    data = json.loads((finished[0] / "result.json").read_text())
    assert set(data["loss"]) == {
        "specialists", "uniform", "further_tuned", "uniform_stage2", "stage1", "stage2", "sample_oracle"
    }  # fmt: skip
    assert list(data["loss"]["specialists"]) == NAMES
    rows = [
        *data["loss"]["specialists"].values(),
        *(row for name, row in data["loss"].items() if name != "specialists"),
    ]
    for row in rows:
        assert list(row) == list(COLUMNS)
        assert all(2 < value < 9 for value in row.values())
    assert list(data["gate_weights"]) == list(COLUMNS)
    for weights in data["gate_weights"].values():
        assert list(weights) == NAMES
        assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    assert data["seconds"]["total"] > 0


def test_numbers_follow_from_the_items(finished) -> None:
    _, result, details, _ = finished
    for method in ("uniform", "further_tuned", "uniform_stage2", "stage1", "stage2"):
        assert getattr(result.loss, method) == loss_by_domain(details.items[method])
    best, _ = sample_oracle({name: details.items[name] for name in NAMES})
    assert result.loss.sample_oracle == loss_by_domain(best)
    assert result.base == best_base({name: dict.fromkeys(DOMAINS, result.base_validation_loss[name]) for name in NAMES})
    assert {item.weights[1] for item in details.items["code"]} == {1.0}
    assert all(weight == pytest.approx(1 / 3) for item in details.items["uniform_stage2"] for weight in item.weights)


def test_training_changed_what_it_should(finished) -> None:
    _, result, details, _ = finished
    assert result.loss.stage2 != result.loss.stage1
    assert result.loss.further_tuned["text"] < result.loss.specialists[result.base]["text"]
    assert result.loss.uniform_stage2["text"] < result.loss.uniform["text"]
    assert result.parameters["fused"] > 2.9 * result.parameters["further_tuned"]
    assert {curve.name: len(curve.loss) for curve in details.curves} == {
        "stage1": 4, "stage2": 4, "uniform_stage2": 4, "further_tuned": 4
    }  # fmt: skip
    assert all(curve.validation_loss for curve in details.curves)


def test_files_are_left_and_work_is_gone(finished) -> None:
    folder = finished[0]
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "result.json", "details.json", "plan.json", "fused"} <= names
    assert "work" not in names
    assert "<h2>Honest reading</h2>" in (folder / "report.html").read_text()


def test_fused_model_is_the_measured_one(finished, sources) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import ultrafuser  # noqa: F401
    from ultrafuser.generation import score

    folder, _, details, _ = finished
    model = AutoModelForCausalLM.from_pretrained(folder / "fused")
    tokenizer = AutoTokenizer.from_pretrained(folder / "fused")
    assert model.gate_is_trained
    record = json.loads(Path(sources.data["composite"]["heldout"]).read_text().splitlines()[0])
    item = next(item for item in details.items["stage2"] if item.id == record["id"])
    events = score(model, tokenizer, record["messages"])
    assert len(events) == item.n_tokens
    assert -sum(event.logprob for event in events) == pytest.approx(item.loss_sum, rel=1e-4)


def test_examples_show_read_and_written_answers(finished) -> None:
    _, _, details, _ = finished
    assert {example.domain for example in details.examples if not example.written} == {"composite"}
    assert {example.domain for example in details.examples if example.written} <= set(COLUMNS)
    assert any(not example.written for example in details.examples)


def test_progress_reaches_the_end_of_every_training(finished) -> None:
    ends = {p.phase: (p.done, p.total) for p in finished[3]}
    for phase in ("stage1", "stage2", "further_tuned", "uniform_stage2"):
        assert ends[phase] == (4, 4)


def test_a_finished_run_is_shown_not_repeated(finished, sources, monkeypatch) -> None:
    folder, result, details, _ = finished
    for name in PARTS:
        monkeypatch.setitem(PARTS, name, lambda context: pytest.fail("trained again"))
    again = run_demo(folder, MICRO_PLAN, sources, in_process=True)
    assert again == (result, details, True)


def test_interrupted_at_every_training_ends_the_same(finished, sources, tmp_path) -> None:
    folder = tmp_path / "run"
    for phase in ("stage1", "stage2", "further_tuned", "uniform_stage2"):

        def stop(progress: Progress, phase: str = phase) -> None:
            if progress.phase == phase and progress.done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_demo(folder, MICRO_PLAN, sources, in_process=True, on_progress=stop)
        assert not (folder / "result.json").exists()
    result, details, stored = run_demo(folder, MICRO_PLAN, sources, in_process=True)
    assert not stored
    assert details.items == finished[2].items
    assert details.curves == finished[2].curves
    assert result.loss == finished[1].loss


SCRIPT = """
import json, sys
from pathlib import Path
from ultrafuser.demo import DemoPlan, DemoSources, run_demo
folder, plan, sources = sys.argv[1:]
say = lambda p: print(p.phase, p.done, flush=True)
run_demo(Path(folder), DemoPlan.model_validate_json(plan), DemoSources.model_validate_json(sources), on_progress=say)
"""


def _pids_in(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line and b"ultrafuser.demo.worker" in line:
            found.append(int(entry.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_killed_run_leaves_no_worker_and_goes_on(finished, sources, tmp_path) -> None:
    folder = tmp_path / "run"
    arguments = [str(folder), MICRO_PLAN.model_dump_json(), sources.model_dump_json()]
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline()  # a worker is at work
    assert _pids_in(folder)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    end = time.monotonic() + 10
    while _pids_in(folder) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _pids_in(folder)
    assert not (folder / "result.json").exists()
    result, details, _ = run_demo(folder, MICRO_PLAN, sources)
    assert details.items == finished[2].items
    assert result.loss == finished[1].loss
    assert load_result(folder) == (result, details)


def test_a_users_mistake_in_a_worker_is_one_clear_error(sources, tmp_path) -> None:
    bad = sources.model_copy(deep=True)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "no answer"}\n')
    bad.data["code"]["heldout"] = str(broken)
    with pytest.raises(ValueError, match=r"data\.code: .*broken\.jsonl.*1"):
        run_demo(tmp_path / "run", MICRO_PLAN, bad)


def test_two_runs_in_one_folder_are_refused(sources, tmp_path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr("ultrafuser.workers.LOCK_WAIT", 0.3)
    folder = tmp_path / "run"
    open_folder(folder, MICRO_PLAN, sources, overwrite=False)
    with (folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another demo is running"):
            run_demo(folder, MICRO_PLAN, sources, in_process=True)


def test_result_of_another_format_is_refused(finished) -> None:
    data = json.loads((finished[0] / "result.json").read_text())
    data["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        DemoResult.model_validate(data)
