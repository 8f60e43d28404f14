"""The frame: light help, one line per mistake, JSON that every reader can open."""

import json
import subprocess
import sys
import time

import pytest

from ultrafuser.cli import build_app, common

VERBS = ("init", "check", "train", "specialise", "generate", "chat", "explain", "add", "remove", "zoo", "demo", "eval")
VERBS += ("lm-eval", "synth")
HELPS = [[], *([verb] for verb in VERBS), ["zoo", "list"], ["zoo", "path"], ["zoo", "copy"], ["zoo", "build"]]
HELPS += [["synth", verb] for verb in ("init", "plan", "run", "status", "review", "import", "export", "analyse")]
LIGHT = """
import contextlib, io, json, sys
from ultrafuser.cli import main
shown = []
for args in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*args, "--help"])
    shown.append(out.getvalue())
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "datasets", "numpy"})
print(json.dumps({"heavy": heavy, "shown": shown}))
"""


def test_help_of_every_verb_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(HELPS)], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    for args, shown in zip(HELPS, found["shown"], strict=True):
        assert "Usage: ultrafuser " + " ".join(args) in shown


def test_help_is_quick():
    """Processor time, the better of three: the wall clock of a busy machine says nothing."""
    code = "import time; from ultrafuser.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "import sys; print(time.process_time(), file=sys.stderr)"
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        times.append(float(done.stderr.split()[-1]))
    assert min(times) < 0.5


def test_every_verb_is_there_with_json(run):
    shown = run("--help").stdout
    for verb in VERBS:
        assert f"{verb} " in shown
        if verb not in ("zoo", "synth"):
            assert "--json" in run(verb, "--help").stdout
    for verb in ("list", "path", "copy", "build"):
        assert "--json" in run("zoo", verb, "--help").stdout
    for verb in ("init", "plan", "run", "status", "review", "export"):
        assert "--json" in run("synth", verb, "--help").stdout


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "ultrafuser", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("ultrafuser 0.")
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cht"], "error: No such command 'cht'"),
        (["generate"], "error: Missing argument 'MODEL'"),
        (["generate", "x", "y", "--temprature", "1"], "error: No such option: --temprature"),
        (["generate", "x", "y", "--top-k", "many"], "error: Invalid value for '--top-k'"),
        (["zoo"], "error: Missing command"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run, args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("source", ["no/such/folder", "./nowhere", "nowhere", "owner/name", "zoo:nothing"])
def test_missing_folder_is_named_at_once(run, source):
    started = time.perf_counter()
    result = run("generate", source, "hello")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert source.removeprefix("zoo:") in result.stderr
    assert time.perf_counter() - started < 2
    if source == "owner/name":
        assert "--revision" in result.stderr


def test_folder_without_model_points_at_the_one_inside(run, fused_folder):
    result = run("generate", fused_folder.parent, "hello")
    assert result.exit_code == 2
    assert f"did you mean '{fused_folder}'?" in result.stderr.replace("\n", "")


def test_debug_lets_the_traceback_through(run, monkeypatch):
    monkeypatch.setenv("ULTRAFUSER_DEBUG", "1")
    assert isinstance(run("generate", "./nowhere", "x").exception, ValueError)


def test_json_that_cannot_be_written_is_refused_first(run, monkeypatch, tmp_path):
    from ultrafuser import zoo

    monkeypatch.setattr(zoo, "summary", lambda: pytest.fail("work began"))
    (tmp_path / "file").write_text("x")
    folder = run("zoo", "list", "--json", tmp_path)
    inside = run("zoo", "list", "--json", tmp_path / "file" / "x.json")
    assert folder.exit_code == inside.exit_code == 2
    assert "--json" in folder.stderr
    assert "is a folder" in folder.stderr
    assert "cannot be written" in inside.stderr


def test_errors_of_the_system_are_said_without_their_number(run, monkeypatch):
    from ultrafuser import zoo

    def full():
        raise OSError(28, "no space left", "out.bin")

    monkeypatch.setattr(zoo, "summary", full)
    assert run("zoo", "list").stderr == "error: no space left: out.bin\n"


def test_full_device_is_one_line(monkeypatch):
    from typer.testing import CliRunner

    from ultrafuser import zoo

    class OutOfMemoryError(RuntimeError):
        """As torch names it."""

    def full():
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(zoo, "summary", full)
    result = CliRunner().invoke(build_app(), ["zoo", "list"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the device is out of memory (CUDA out of memory. Tried to allocate 2 GiB)")


def test_interrupt_ends_with_130(monkeypatch):
    from typer.testing import CliRunner

    from ultrafuser import zoo

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "summary", interrupt)
    assert CliRunner().invoke(build_app(), ["zoo", "list"]).exit_code == 130


def test_json_is_readable_by_anyone_and_written_whole(tmp_path, capsys):
    import numpy as np

    target = tmp_path / "deep" / "out.json"
    common.write_json(target, {"a": float("nan"), "b": [np.float32(1.5), np.arange(2)], 3: "ä"})
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": None, "b": [1.5, [0, 1]], "3": "ä"}
    assert [path.name for path in target.parent.iterdir()] == ["out.json"]
    common.write_json("-", {"x": 1})
    assert json.loads(capsys.readouterr().out) == {"x": 1}
    common.write_json(None, {"x": object()})


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        common.write_json(tmp_path, {})


def test_sources_and_data_by_name(monkeypatch, tmp_path):
    from ultrafuser import zoo

    monkeypatch.setattr(zoo, "path", lambda name: tmp_path / name)
    monkeypatch.setattr(zoo, "sample_path", lambda name: tmp_path / f"{name}.jsonl", raising=False)
    assert common.resolve_source("zoo:text") == str(tmp_path / "text")
    assert common.resolve_source("runs/x") == "runs/x"
    assert common.resolve_data("zoo-sample:text/train") == str(tmp_path / "text/train.jsonl")
    assert common.resolve_data("data/x.jsonl") == "data/x.jsonl"
