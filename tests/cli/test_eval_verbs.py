"""`ultrafuser eval`: what is run, said, written and refused."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ultrafuser.evaluation.record import load_run

QUICK = ("--data", "sample", "--max-new-tokens", 4)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The default output is relative: each test has a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def questions(folder, count):
    rows = [
        {"id": f"q{i}", "question": f"What is {i} + {i}?", "options": [f"(A){i}", f"(B){2 * i}"], "correct": "B"}
        for i in range(count)
    ]
    folder.mkdir()
    (folder / "sat_math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_fused_model_on_the_sample(run, fused_folder, tmp_path):
    result = run("eval", fused_folder, "-b", "truthfulqa,sat_math", *QUICK, "--json", "out.json")
    assert result.exit_code == 0, result.output
    assert "95% interval" in result.stdout
    for word in (
        "truthfulqa",
        "mc2",
        "sat_math",
        "accuracy",
        "text",
        "code",
        "math",
        "answers cut off by a length limit: sat_math 8 of 8",
    ):
        assert word in result.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["model"] == str(fused_folder)
    row = found["benchmarks"]["truthfulqa"]
    assert {"metric", "score", "ci95", "n", "seconds"} <= set(row)
    assert row["metric"] == "mc2"
    assert row["ci95"][0] <= row["score"] <= row["ci95"][1]
    assert sum(row["gate_weights"].values()) == pytest.approx(1)
    folder = tmp_path / found["run"]
    assert folder.parent == tmp_path / "runs" / "eval"
    assert folder.name.startswith("model-")
    entries = load_run(folder).entries["sat_math"]
    assert set(entries[0].prompts) == {"text", "code", "math"}
    assert "[INST]" in entries[0].prompts["code"]
    assert sum(entries[0].gate_weights.values()) == pytest.approx(1)
    assert (folder / "report.html").read_text().startswith("<!")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = run("eval", fused_folder, "-b", "truthfulqa,sat_math", *QUICK, "--json", "out2.json")
    assert again.exit_code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert json.loads((tmp_path / "out2.json").read_text()) == found


def test_killed_by_the_system_the_same_command_goes_on(run, fused_folder, tmp_path):
    data = questions(tmp_path / "data", 24)
    words = ["eval", fused_folder, "-b", "sat_math", "--data", data, "--max-new-tokens", 4, "--batch-size", 2]
    command = [sys.executable, "-m", "ultrafuser", *map(str, words), "--output", "cut"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    journal = tmp_path / "cut" / "sat_math.answers.jsonl"
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if journal.is_file() and journal.stat().st_size:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == -signal.SIGKILL, output
    left = load_run(tmp_path / "cut")
    assert left.unfinished == ["sat_math"]
    answered = journal.read_bytes().count(b"\n")
    assert 0 < answered < 24
    resumed = run(*words, "--output", "cut")
    assert resumed.exit_code == 0, resumed.output
    assert run(*words, "--output", "whole").exit_code == 0
    cut, whole = load_run(tmp_path / "cut").entries["sat_math"], load_run(tmp_path / "whole").entries["sat_math"]
    assert [entry.id for entry in cut] == [f"q{i}" for i in range(24)]
    assert len(load_run(tmp_path / "cut").settings["calls"]) == 2
    for one, other in zip(cut, whole, strict=True):
        left_out = {"seconds": 0, "gate_weights": None}
        assert one.as_dict() | left_out == other.as_dict() | left_out
        assert one.gate_weights == pytest.approx(other.gate_weights, abs=1e-5)


def test_one_specialist_alone_and_held_out_loss(run, fused_folder, tmp_path):
    for only in ("text", "code"):
        result = run(
            "eval", fused_folder, "--only", only, "-b", "loss", "--loss-data", "text=zoo-sample:text/heldout",
            "--limit", 6, "--json", f"{only}.json",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    text, code = (json.loads((tmp_path / f"{only}.json").read_text()) for only in ("text", "code"))
    assert text["model"] == f"{fused_folder} (text)"
    assert text["benchmarks"]["loss"]["counts"]["answers"] == 6
    assert text["benchmarks"]["loss"]["gate_weights"] is None
    assert list(text["benchmarks"]["loss"]["groups"]) == ["text"]
    assert text["benchmarks"]["loss"]["score"] != code["benchmarks"]["loss"]["score"]
    shown = run("eval", "compare", text["run"], code["run"], "--json", "both.json", "--report", "both.html")
    assert shown.exit_code == 0, shown.output
    assert "difference" in shown.stdout
    both = json.loads((tmp_path / "both.json").read_text())
    assert both["benchmarks"]["loss"]["against"]
    assert (tmp_path / "both.html").read_text().startswith("<!")
    page = run("eval", "report", text["run"], "-o", "one.html")
    assert page.exit_code == 0
    assert "one.html" in page.stdout


def test_all_takes_what_there_is_and_says_what_not(run, fused_folder, tmp_path):
    result = run("eval", fused_folder, "-b", "all", "--data", questions(tmp_path / "data", 3), "--max-new-tokens", 2)
    assert result.exit_code == 0, result.output
    assert "left out: gsm8k: --data: folder" in result.stdout
    assert list(load_run(next((tmp_path / "runs" / "eval").iterdir())).entries) == ["sat_math"]


def test_several_samples_and_pass_at_k(run, fused_folder, tmp_path):
    words = ("--limit", 2, "--samples", 3, "--temperature", 1.0, "--pass-at", "1,3", "--output", "run")
    result = run("eval", fused_folder, "-b", "sat_math", *QUICK, *words)
    assert result.exit_code == 0, result.output
    assert "pass@3" in result.stdout
    assert len(load_run(tmp_path / "run").entries["sat_math"]) == 6


class Endpoint(BaseHTTPRequestHandler):
    """Always says (B)."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "The answer is (B)."},
        }
        reply = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "parrot", "choices": [choice],
            "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
        }  # fmt: skip
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_model_behind_an_endpoint(run, tmp_path, address):
    data = questions(tmp_path / "data", 5)
    words = ("--model-name", "parrot", "--data", data)
    result = run("eval", address, "-b", "all", *words, "--json", "out.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["benchmarks"]["sat_math"]["score"] == 1.0
    assert found["run"].startswith("runs/eval/parrot-")
    refused = run("eval", address, "-b", "loss", *words, "--loss-data", "text=zoo-sample:text/heldout")
    assert refused.exit_code == 2
    assert "loss: it needs log-likelihoods of given texts, which parrot does not give" in refused.stderr
    wrong = run("eval", address, "-b", "sat_math", *words, "--only", "code")
    assert "--only" in wrong.stderr
    assert wrong.exit_code == 2


def test_a_judge_without_verdicts_is_flagged(run, fused_folder, tmp_path, address, monkeypatch):
    words = ["eval", fused_folder, "-b", "alpaca_eval", *QUICK, "--limit", 2, "--output", "run"]
    judge = address.replace("http://", "http://me:secret@")
    monkeypatch.setattr(sys, "argv", ["ultrafuser", *map(str, words), "--judge", judge])
    result = run(*words, "--judge", address, "--judge-model", "parrot")
    assert result.exit_code == 0, result.output
    assert "answers without a clear verdict (flagged in the record): alpaca_eval 2 of 2" in result.stdout
    settings = load_run(tmp_path / "run").settings
    assert settings["benchmarks"]["alpaca_eval"]["judge"]["model"] == "parrot"
    assert "secret" not in (tmp_path / "run" / "run.json").read_text()
    assert settings["calls"][0]["command"][-2:] == ["--judge", address]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing argument 'MODEL'"),
        (["nowhere"], "--benchmarks: none is named"),
        (["nowhere", "-b", "gsm9k"], "--benchmarks: 'gsm9k' is not one of"),
        (["nowhere", "-b", "gsm8k", "--data", "sample"], "MODEL: folder 'nowhere' does not exist"),
        (["nowhere", "-b", "gsm8k", "--data", "elsewhere"], "--data: folder 'elsewhere' does not exist"),
        (["nowhere", "-b", "mt_bench", "--data", "sample"], "mt_bench: it needs a judge; give --judge URL"),
        (["nowhere", "-b", "gsm8k", "--samples", "4"], "--samples: 4 answers at temperature 0"),
        (["nowhere", "-b", "gsm8k", "--pass-at", "ten"], "--pass-at: 'ten' must be numbers"),
        (["nowhere", "-b", "gsm8k", "--pass-at", "10"], "--pass-at: pass@10 needs at least 10 answers"),
        (["nowhere", "-b", "gsm8k", "--hub", "gsm8k"], "--hub: 'gsm8k' must read NAME=ID@REVISION"),
        (["nowhere", "-b", "gsm8k", "--hub", "gsm=a/b"], "--hub: 'gsm' is not one of"),
        (["nowhere", "-b", "loss", "--loss-data", "x"], "--loss-data: 'x' must read DOMAIN=FILE"),
        (["nowhere", "-b", "loss", "--loss-data", "text=zoo-sample:text/x"], "the sample has no 'text' 'x'"),
        (["nowhere", "-b", "loss"], "--data: hub has no held-out conversations"),
        (["nowhere", "-b", "gsm8k", "--model-name", "x"], "--model-name: 'nowhere' is no endpoint"),
        (["nowhere", "-b", "gsm8k", "--judge-model", "x", "--data", "sample"], "--judge-model: 'x' needs --judge URL"),
        (["nowhere", "--benchmark", "x"], "No such option: --benchmark"),
        (["compare", "nowhere"], "RUN: folder 'nowhere' does not exist"),
        (["report", "."], "RUN: folder '.' has no run.json"),
        (["compare"], "Missing argument 'RUN...'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, words, message):
    result = run("eval", *words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_other_settings_in_the_same_folder_are_refused(run, fused_folder, tmp_path):
    data = questions(tmp_path / "data", 3)
    words = ["eval", fused_folder, "-b", "sat_math", "--data", data, "--output", "run"]
    assert run(*words, "--max-new-tokens", 2).exit_code == 0
    refused = run(*words, "--max-new-tokens", 3)
    assert refused.exit_code == 2
    assert "holds a run with other settings: sat_math.max_new_tokens: 2 -> 3" in refused.stderr
    other = run(*words, "--max-new-tokens", 2, "--only", "math")
    assert 'subject.kind: "fused" -> "model"' in other.stderr
    assert run(*words, "--max-new-tokens", 3, "--overwrite").exit_code == 0
    for name in ("summary.json", "run.json"):
        (tmp_path / "run" / name).write_text("{")
        broken = run(*words, "--max-new-tokens", 3)
        assert broken.exit_code == 2
        assert "--overwrite" in broken.stderr
        assert run(*words, "--max-new-tokens", 3, "--overwrite").exit_code == 0


def test_interrupted_it_says_how_to_go_on(run, fused_folder, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ultrafuser.evaluation.subjects.local.LocalSubject.answer", stop)
    result = run("eval", fused_folder, "-b", "sat_math", *QUICK)
    assert result.exit_code == 130
    assert "the same command goes on" in result.stdout


def test_help_and_list_import_nothing_heavy():
    code = """
import contextlib, io, sys
from ultrafuser.cli import main
for words in (["eval", "--help"], ["eval", "list"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "datasets", "numpy"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


def test_the_list_and_the_help(run, tmp_path):
    result = run("eval", "list", "--json", "list.json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "list.json").read_text())["benchmarks"]}
    assert rows["gsm8k"]["metric"] == "accuracy"
    assert rows["gsm8k"]["file"] == "gsm8k_test"
    for name in rows:
        assert name in result.stdout
    shown = run("eval", "--help").stdout
    assert "Usage: ultrafuser eval" in shown
    for option in ("--benchmarks", "--loss-data", "--pass-at", "--judge-model", "compare", "report", "list"):
        assert option in shown
    for verb in ("run", "list", "compare", "report"):
        assert "--json" in run("eval", verb, "--help").stdout
