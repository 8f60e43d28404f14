"""Runs killed or stopped at many moments end with the weights of a run left alone, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


def lines(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def alive(pid):
    """Whether a child of the server still runs; once ended and reaped it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """A process that starts runs in children of its own; see crash_server.py."""

    def __init__(self, setting):
        script = Path(__file__).with_name("crash_server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.answer() == "ready"

    def answer(self):
        return self.process.stdout.readline().strip()

    def run(self, output, entries=None, delay=0.0, signum=signal.SIGKILL, **request):
        """Start a run; send it a signal once it has logged so many entries, and `delay` s later. Returns its status."""
        logged = output / "work/history.jsonl"
        before = lines(logged)
        self.process.stdin.write(json.dumps({"output": str(output), **request}) + "\n")
        self.process.stdin.flush()
        pid = int(self.answer())
        if entries is not None:
            while lines(logged) < before + entries and alive(pid):
                before = min(before, lines(logged))  # a run that goes on first forgets what it does again
                time.sleep(0.002)
            time.sleep(delay)
            if alive(pid):
                os.kill(pid, signum)
        return int(self.answer())


@pytest.fixture(scope="module")
def server(make_specialist_folder, chat_templates, tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    folders = {  # dropout: a run that resumes with other random numbers ends with other weights
        name: str(make_specialist_folder(root / name, seed, tie=name == "code", attention_dropout=0.2))
        for seed, name in enumerate(chat_templates)
    }
    server = Server({"folders": folders, "templates": chat_templates})
    yield server
    server.process.stdin.close()
    server.process.wait(timeout=30)


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    assert server.run(output) == 0
    return output


def same(output, undisturbed):
    """Equal weights bit for bit, equal history but for the seconds."""
    mine, other = (load_file(folder / "final.safetensors") for folder in (output, undisturbed))
    assert mine.keys() == other.keys()
    for name in mine:
        assert torch.equal(mine[name], other[name]), name

    def events(folder):
        entries = json.loads((folder / "history.json").read_text())
        return [{k: v for k, v in entry.items() if not k.endswith("seconds")} for entry in entries]

    assert events(output) == events(undisturbed)


def test_a_second_run_alone_is_the_same(server, undisturbed, tmp_path):
    assert server.run(tmp_path) == 0
    same(tmp_path, undisturbed)


def test_killed_after_renames(server, undisturbed, tmp_path):
    """Every file and folder appears by a rename: a kill after the first of one process, the second of the next, ...."""
    kills = 0
    while server.run(tmp_path, die_after={"replace": 1 + kills}) == -signal.SIGKILL:
        kills += 1
        assert kills < 40
    assert kills >= 5
    same(tmp_path, undisturbed)


def test_killed_in_the_middle_of_writing(server, undisturbed, tmp_path):
    for request in (
        {"torn": 1},
        {"die_after": {"rng": 1}},
        {"torn": 2},
        {"die_after": {"append": 5}},
        {"die_after": {"finish": 1}},
        {"torn": 3},
        {"die_after": {"rng": 2}},
    ):
        assert server.run(tmp_path, **request) == -signal.SIGKILL, request
    assert server.run(tmp_path) == 0
    same(tmp_path, undisturbed)


def test_killed_at_random_moments(server, undisturbed, tmp_path):
    draw, statuses = random.Random(os.environ.get("KILL_SEED", "1")), []
    while not statuses or statuses[-1]:
        statuses.append(server.run(tmp_path, entries=draw.randint(2, 5), delay=draw.uniform(0, 0.1)))
        assert len(statuses) < 30
    assert statuses[:-1] == [-signal.SIGKILL] * (len(statuses) - 1)
    assert len(statuses) > 2, "the run was hardly ever killed"
    same(tmp_path, undisturbed)


def test_torn_leftovers_are_not_taken_for_checkpoints(server, undisturbed, tmp_path):
    assert server.run(tmp_path, die_after={"publish": 2}) == -signal.SIGKILL
    stage = tmp_path / "work/1-gate"
    (stage / "checkpoint-99").mkdir()
    (stage / "checkpoint-99/weights.safetensors").write_bytes(b"torn")
    with (tmp_path / "work/history.jsonl").open("a") as file:
        file.write('{"stage": "gate", "st')
    assert server.run(tmp_path) == 0
    same(tmp_path, undisturbed)


def test_sigterm_saves_and_stops(server, undisturbed, tmp_path):
    assert server.run(tmp_path, entries=2, signum=signal.SIGTERM) == 128 + signal.SIGTERM
    logged = [json.loads(line) for line in (tmp_path / "work/history.jsonl").read_text().splitlines()]
    assert (tmp_path / f"work/1-gate/checkpoint-{logged[-1]['step']}").is_dir(), "no step is lost"
    assert server.run(tmp_path) == 0
    same(tmp_path, undisturbed)
