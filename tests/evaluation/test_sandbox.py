"""The sandbox's answers: what passes, what does not, and what it says where it cannot isolate."""

import os
import sys
import threading
import time

import pytest

from ultrafuser.evaluation.sandbox import Limits, Outcome, Program, Sandbox, layers

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="isolation is there on Linux only")


@pytest.fixture(scope="module")
def sandbox():
    """The strictest sandbox here."""
    with Sandbox(limits=Limits(seconds=60), workers=4) as sandbox:
        yield sandbox


@on_linux
def test_outcomes_come_in_the_order_of_the_programs_with_their_last_line(sandbox):
    slow_then_quick = ["import time; time.sleep(0.5); print('slow')", "print('quick')"]
    failing = [
        Program("def double(x):\n    return x + 2\n", "assert double(2) == 4\nassert double(3) == 6\n"),
        "1 / 0",
        "assert 1 == 2, 'one is not two'",
        "def f(:\n    pass",
        "raise KeyError('k')",
        "",
        Program("x = 1"),
        Program("", "assert True"),
    ]
    outcomes = sandbox.run([*slow_then_quick, *failing])
    assert [outcome.status for outcome in outcomes] == ["passed"] * 2 + ["failed"] * 5 + ["passed"] * 3
    assert [outcome.output for outcome in outcomes[:2]] == ["slow\n", "quick\n"]
    assert [outcome.error for outcome in outcomes[2:7]] == [
        "AssertionError: assert double(3) == 6",
        "ZeroDivisionError: division by zero",
        "AssertionError: one is not two",
        "SyntaxError: invalid syntax",
        "KeyError: 'k'",
    ]
    assert 'File "<tests>", line 2, in <module>' in outcomes[2].output
    assert "run_parts" not in outcomes[2].output  # the harness's own lines are no part of the program's traceback
    assert outcomes[0].seconds >= 0.5
    assert sandbox.run([]) == []


CHEATS = {
    "exit with success": "import sys\nsys.exit(0)",
    "exit": "exit()",
    "quit": "quit(0)",
    "SystemExit": "raise SystemExit",
    "SystemExit in the function": "def f(x):\n    raise SystemExit(0)",
    "os._exit": "import os\nos._exit(0)",
    "os._exit in the function": "import os\ndef f(x):\n    os._exit(0)",
    "at exit": "import atexit, os, sys\natexit.register(os._exit, 0)\nsys.exit(1)",
    "a thread ends it": "import os, threading, time\nthreading.Timer(0.1, os._exit, [0]).start()\n"
    "def f(x):\n    time.sleep(5)\n    return 3",
    "an alarm ends it": "import os, signal, time\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(5)",
    "kills itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "terminates itself": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "aborts": "import os\nos.abort()",
    "a parent's success": "import os\ntry:\n    pid = os.fork()\nexcept OSError:\n    pid = 1\n"
    "if pid:\n    os._exit(0)",
    "a child's success": "import os\ntry:\n    if os.fork() == 0:\n        os._exit(0)\nexcept OSError:\n    pass",
    "another program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'pass'])",
    "says that it passed": "print('passed')\nimport sys\nsys.stdout.flush()\nsys.exit(0)",
    "an open string": "x = '''",
    "an open bracket": "x = (",
    "a comment to the end": "def f(x): return 3 \\",
    "no checks": "def check(candidate):\n    pass",
    "another assert": "class AssertionError(BaseException):\n    pass",
    "no exceptions shown": "import sys, traceback\nsys.excepthook = lambda *_: None\n"
    "traceback.TracebackException = traceback.format_exception = None",
    "no standard streams": "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = None",
    "no exit": "import os, sys\nos._exit = sys.exit = exit = lambda *_: None",
    "no write": "import os\nos.write = lambda *_: 1",
    "a generator that stops": "def f(x):\n    raise StopIteration",
    "cancelled": "import asyncio\ndef f(x):\n    raise asyncio.CancelledError",
    "interrupted": "def f(x):\n    raise KeyboardInterrupt",
}
TESTS = "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n"


@on_linux
def test_only_a_program_that_comes_to_its_end_has_passed(sandbox):
    programs = [
        Program(source if "def f" in source or "execv" in source else f"{source}\ndef f(x):\n    return 3\n", TESTS)
        for source in CHEATS.values()
    ]
    outcomes = dict(zip(CHEATS, sandbox.run(programs), strict=True))
    assert {name: outcome for name, outcome in outcomes.items() if outcome.status not in ("failed", "killed")} == {}
    assert outcomes["os._exit"].error == "it left before its end (exit status 0)"
    assert outcomes["kills itself"].error == "ended by signal SIGKILL"
    assert outcomes["no checks"].error == "AssertionError: assert candidate(1) == 2"


FAIR = {
    "an event loop": "import asyncio\nasync def g():\n    await asyncio.sleep(0)\n    return 2\nx = asyncio.run(g())",
    "threads": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n"
    "    assert list(pool.map(abs, [-1, 2])) == [1, 2]",
    "temporary files": "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as file:\n    file.write('x')\n"
    "with tempfile.TemporaryDirectory() as folder:\n    open(folder + '/x', 'w').close()",
    "numpy": "import numpy as np\nassert np.linalg.inv(np.eye(3)).sum() == 3",
    "a data class": "from __future__ import annotations\nfrom dataclasses import dataclass\nimport pickle, typing\n"
    "@dataclass\nclass A:\n    x: int = 1\nassert pickle.loads(pickle.dumps(A())) == A()\n"
    "assert typing.get_type_hints(A) == {'x': int}",
    "a script's own part": "if __name__ == '__main__':\n    raise SystemExit('not started as a script')",
    "silence": "import os, sys\nos.close(1); os.close(2); sys.stdout = None",
    "chatter": "print('x' * 5000)",
    "not ascii": "print('\\u00e4\\u20ac\\udc80'.encode('utf-8', 'replace')); assert 'ä€' == '\\u00e4\\u20ac'",
    "deep recursion": "import sys\nsys.setrecursionlimit(5000)\ng = lambda n: n and g(n - 1)\nassert g(4000) == 0",
    "random numbers": "import random, secrets, hashlib\nrandom.random(); secrets.token_bytes(4); hashlib.sha256(b'x')",
    "time zones": "import datetime, zoneinfo\nassert datetime.datetime.now(zoneinfo.ZoneInfo('UTC')).tzinfo",
    "its own end at exit": "import atexit\natexit.register(print, 'never')",
    "a thread that stays": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
}


@on_linux
@pytest.mark.parametrize("layer", [None, "landlock"])
def test_fair_programs_pass(layer):
    with make(layer) as sandbox:
        outcomes = dict(zip(FAIR, sandbox.run(list(FAIR.values())), strict=True))
    assert {name: outcome for name, outcome in outcomes.items() if not outcome.passed} == {}
    assert outcomes["its own end at exit"].output == ""


@on_linux
def test_a_program_may_have_processes_where_they_are_held_together():
    source = (
        "import multiprocessing, subprocess, sys\n"
        "def square(x):\n    return x * x\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n    assert pool.map(square, [2, 3]) == [4, 9]\n"
        "assert subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True, text=True).stdout == '7\\n'\n"
    )
    with make("namespaces") as sandbox:
        (outcome,) = sandbox.run([source])
    assert outcome.passed, outcome


@on_linux
def test_the_order_of_sets_is_the_same_in_every_run(sandbox):
    first, second = sandbox.run(["print({'a', 'b', 'c', 'd', 'e', 'f', 'g'}, hash('x'))"] * 2)
    assert first.output == second.output


def make(layer: str | None, **options) -> Sandbox:
    """A sandbox of one kind, or skip where this machine has none."""
    try:
        return Sandbox(layer=layer, workers=4, **options)
    except ValueError as problem:
        pytest.skip(str(problem))


@on_linux
def test_odd_text_is_an_error_of_the_program(sandbox):
    texts = [
        "x = 1\0",
        "x = '\udc80'",
        "(" * 100_000,
        "-" * 100_000 + "1",
        "\ufeffx = 1",
        "\tif x:\n  y",
        "é = 1\nassert é == 1",
    ]
    statuses = [outcome.status for outcome in sandbox.run(texts)]
    assert statuses[:2] == ["failed", "failed"]
    assert set(statuses[2:4]) <= {"failed", "killed", "memory"}
    assert statuses[-2:] == ["failed", "passed"]


@on_linux
def test_close_ends_what_runs():
    with make(None) as sandbox:
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.extend(sandbox.run(["import time; time.sleep(1000)"])))
        thread.start()
        while not outcomes and thread.is_alive():
            sandbox.close()
            time.sleep(0.05)
        thread.join()
        assert [outcome.status for outcome in outcomes] == ["killed"]
        assert sandbox.run(["x = 1"])[0].passed


def test_limits_are_above_zero():
    with pytest.raises(ValueError, match="memory: 0 is not above zero"):
        Limits(memory=0)


class TestWithoutIsolation:
    """Where the machine has nothing to isolate with."""

    @pytest.fixture(autouse=True)
    def bare_machine(self, monkeypatch):
        monkeypatch.setattr(layers, "_try", lambda kind: (None, "refused by the test"))

    def test_it_refuses_and_says_what_is_missing_and_what_to_do(self):
        with pytest.raises(ValueError, match=r"user namespaces or Landlock.*refused by the test.*--allow-unsafe-code"):
            Sandbox()

    def test_it_refuses_on_other_systems(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(ValueError, match=r"darwin.*container or virtual machine.*--allow-unsafe-code"):
            Sandbox()

    def test_limits_and_time_out_hold_when_told_to_go_on(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SECRET_TOKEN", "x")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        programs = {
            "x = 1": "passed",
            "import os\nassert 'SECRET_TOKEN' not in os.environ": "passed",
            "import os\nopen('file', 'w').close()\nassert os.listdir('.') == ['file']": "passed",
            "import os\nos.makedirs('a/b'); os.chmod('a', 0)": "passed",
            "import sys\nsys.exit(0)": "failed",
            "while True:\n    print('x' * 1000)": "output",
            "hoard = []\nwhile True:\n    hoard.append(bytearray(1_000_000))": "memory",
        }
        with Sandbox(allow_unsafe=True, limits=Limits(memory=2**28), workers=4) as sandbox:
            assert sandbox.describe()["isolated"] is False
            outcomes = sandbox.run(list(programs))
        assert [outcome.status for outcome in outcomes] == list(programs.values()), outcomes
        with Sandbox(allow_unsafe=True, limits=Limits(seconds=1)) as sandbox:
            (outcome,) = sandbox.run(["import os, time\nos.fork()\ntime.sleep(1000)"])
        assert outcome.status == "timeout"
        assert os.listdir(tmp_path) == []
