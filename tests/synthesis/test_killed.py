"""The real command against a server that fails in every way, killed midway: nothing lost, nothing asked twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
import yaml
from author import author, mark
from scripted import Answering, completion, failure

COUNTS = {"meta_topics": 3, "sub_topics": 3, "instructions": 5, "expansion": 0.5, "complicated": 0.3, "batch": 5}
CONCURRENCY = 6
TIMEOUT = 2.0  # seconds
KILL_AT = 120  # requests seen by the server


class Troubled:
    """Answers as the author does, but one first request in five is met by trouble of some kind.

    `answered` counts the good answers by what was asked, `troubles` the kinds of trouble.
    """

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.good: dict[str, Answering | dict] = {}
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, body: dict, number: int) -> Answering | dict:
        name = mark(body)
        with self._lock:
            first = name not in self._seen
            self._seen.add(name)
        kind = int(name, 16) % 48
        if first and kind < len(KINDS):
            self.troubles[KINDS[kind]] += 1
            return trouble(KINDS[kind], body)
        with self._lock:
            self.answered[name] += 1
        return author(body)


KINDS = ("429", "500", "503", "hang up", "no JSON", "malformed", "truncated", "empty", "time-out")


def trouble(kind: str, body: dict) -> Answering | dict:
    """A bad answer."""
    text = author(body)["choices"][0]["message"]["content"]
    if kind == "429":
        return failure(429, "slow down", headers={"Retry-After": "0.1"})
    if kind in ("500", "503"):
        return failure(int(kind))
    if kind == "time-out":
        time.sleep(TIMEOUT + 0.5)
    if kind in ("hang up", "time-out"):
        return Answering(hang_up=True)
    if kind == "no JSON":
        return Answering(b'{"choices": [{"mess')
    if kind == "empty":
        return completion("")
    wanted = "JSON list" in body["messages"][-1]["content"]
    if kind == "malformed" and wanted:
        return completion("I would rather talk about something else.")
    return completion(text[: len(text) // 2], finish="length")


@pytest.fixture
def write_spec(tmp_path):
    """`write_spec(name, url) -> file`: three domains, 201 instructions."""

    def write(name, url):
        endpoint = {"base_url": url, "concurrency": CONCURRENCY, "timeout": TIMEOUT}
        spec = {"name": "killed", "domains": ["text", "code", "math"], "counts": COUNTS, "endpoints": [endpoint]}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(spec | {"seed": 7, "output": name}), encoding="utf-8")
        return file

    return write


def command(*args):
    return [sys.executable, "-m", "ultrafuser", "synth", *map(str, args)]


def killed_midway(file, server):
    """Begins a run and kills it when the server has seen enough."""
    process = subprocess.Popen(command("run", file, "--no-review"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while len(server.bodies) < KILL_AT:
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline, len(server.bodies)
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_trouble_and_a_kill_change_nothing(serve, write_spec, tmp_path):
    troubled = Troubled()
    server = serve(troubled)
    file = write_spec("disturbed", server.url)
    killed_midway(file, server)
    asked = sum(troubled.answered.values())
    done = subprocess.run(command("run", file, "--no-review"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run(command("export", file, "-o", tmp_path / "disturbed.jsonl"), check=True, timeout=60)

    assert set(troubled.troubles) == set(KINDS)
    repeated = sum(count - 1 for count in troubled.answered.values())
    assert repeated <= CONCURRENCY
    assert 0 < asked < len(troubled.answered)

    calm = serve(author)
    file = write_spec("calm", calm.url)
    assert in_process("run", file, "--no-review") == 0
    assert in_process("export", file, "-o", tmp_path / "calm.jsonl") == 0
    lines = (tmp_path / "calm.jsonl").read_bytes()
    assert (tmp_path / "disturbed.jsonl").read_bytes() == lines
    assert Counter(json.loads(line)["category"] for line in lines.splitlines()) == {"text": 67, "code": 67, "math": 67}
    assert {mark(body) for body in calm.bodies} == set(troubled.answered)


def in_process(*args):
    from ultrafuser.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["synth", *map(str, args)])
    return ended.value.code
