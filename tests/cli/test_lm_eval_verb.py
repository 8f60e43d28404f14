"""`ultrafuser lm-eval`: lm-eval's own options pass through, ours are merged in, mistakes are one line."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest

pytest.importorskip("lm_eval")

FIGS = [{"body": "Tom had 9 figs. He ate 4", "question": "How many are left?", "answer": 5.0}] * 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "svamp.jsonl").write_text("".join(json.dumps(fig) + "\n" for fig in FIGS), encoding="utf-8")
    return folder


@pytest.fixture
def few_tasks(monkeypatch):
    """lm-eval without its 14,000 tasks, whose files take seconds to look through."""
    import lm_eval.tasks

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))


def test_a_run_gives_table_record_and_json(run, few_tasks, fused_folder, data, tmp_path):
    result = run(
        "lm-eval", fused_folder, "--tasks", "ultrafuser_svamp", "-L", 2, "--json", tmp_path / "x.json", "--data", data,
        "--apply_chat_template", "--gen_kwargs", "max_gen_toks=6", "--batch_size=2", "-s", "-o", tmp_path / "out",
        "--model_args", "max_length=200", "dtype=float32",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "|ultrafuser_svamp|" in result.stdout
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["model"] == str(fused_folder)
    assert found["results"]["ultrafuser_svamp"]["exact_match,last-number"] in (0.0, 0.5, 1.0)
    assert found["n-samples"]["ultrafuser_svamp"]["effective"] == 2
    assert found["config"]["specialists"] == ["text", "code", "math"]
    assert found["config"]["model_args"]["max_length"] == 200
    assert "samples" not in found
    (samples,) = (tmp_path / "out").rglob("samples_ultrafuser_svamp_*.jsonl")
    assert len(samples.read_text().splitlines()) == 2


def test_only_and_an_own_task_folder(run, few_tasks, fused_folder, data, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data / 'svamp.jsonl'}}}, "
        f"cache_dir: {tmp_path / 'cache'}}}\ntest_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\n"
        "doc_to_target: '{{question}}'\nmetric_list: [{metric: bits_per_byte}]\n"
    )
    result = run(
        "lm-eval", fused_folder, "--only", "math", "--tasks", "mine,ultrafuser_svamp", "--include_path", tmp_path,
        "--data", data, "--limit", "1", "--gen_kwargs", "max_gen_toks=4", "--json", "-",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["config"]["specialists"] == ["math"]
    assert found["results"]["mine"]["bits_per_byte,none"] > 0
    assert "ultrafuser_svamp" in found["results"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], ["MODEL: folder 'nothing' does not exist"]),
        (["owner/name"], ["needs --revision"]),
        (["--limit", "3", "FUSED"], ["name the model first, then --limit"]),
        (["FUSED", "--only", "mth"], ["'mth' is not one of text, code, math", "did you mean 'math'"]),
        (["FUSED", "--limit", "abc"], ["--limit", "invalid float value: 'abc'"]),
        (["FUSED", "--lmit", "3"], ["unrecognized arguments: --lmit 3", "--lm-eval-help"]),
        (["FUSED", "--model", "hf"], ["--model: 'hf'"]),
        (["FUSED", "--model_args", "pretrained=x"], ["pretrained is given already"]),
        (["FUSED", "--specialist-path", "text"], ["NAME=FOLDER"]),
        (["FUSED", "--device", "cuda:77"], ["'cuda:77' is not on this machine"]),
        (["FUSED", "--data", "nothing"], ["nothing' does not exist"]),
    ],
)
def test_mistakes_are_one_line(run, fused_folder, arguments, words):
    given = [str(fused_folder) if argument == "FUSED" else argument for argument in arguments]
    result = run("lm-eval", *given, "--tasks", "any")
    assert result.exit_code == 2
    line = " ".join(result.stderr.split())
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_tasks_that_are_not_there(run, few_tasks, fused_folder, data):
    def complaint(*arguments):
        result = run("lm-eval", fused_folder, *arguments)
        assert result.exit_code == 2
        return " ".join(result.stderr.split()).rpartition("error: ")[2]

    assert complaint("--data", data) == "--tasks: name at least one; --data offers ultrafuser_svamp"
    assert "did you mean 'ultrafuser_svamp'?" in complaint("--tasks", "ultrafuser_svmp", "--data", data)
    assert "ultrafuser_... need --data DIR" in complaint("--tasks", "ultrafuser_svamp")
    too_long = complaint("--tasks", "ultrafuser_svamp", "--data", data, "--gen_kwargs", "max_gen_toks=5000")
    assert "5000" in too_long


def test_lm_eval_missing_names_the_extra(run, monkeypatch, fused_folder):
    monkeypatch.setattr("ultrafuser.cli.lm_eval_verb.importlib.util.find_spec", lambda name: None)
    result = run("lm-eval", fused_folder, "--tasks", "any")
    assert result.exit_code == 2
    assert "pip install 'ultrafuser[lm-eval]'" in result.stderr


def test_help_is_ours_and_theirs(run, fused_folder):
    ours = run("lm-eval", "--help")
    assert ours.exit_code == 0
    assert "--lm-eval-help" in ours.stdout
    assert run("lm-eval", fused_folder, "-h").stdout == ours.stdout
    theirs = run("lm-eval", "--lm-eval-help")
    assert theirs.exit_code == 0
    assert "--num_fewshot" in theirs.stdout


def test_the_command_itself_offline(fused_folder, data):
    command = [sys.executable, "-m", "ultrafuser", "lm-eval", str(fused_folder), "--tasks", "ultrafuser_svamp"]
    options = ["--data", str(data), "--limit", "1", "--gen_kwargs", "max_gen_toks=3", "--json", "-"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ultrafuser_svamp" in json.loads(done.stdout)["results"]
