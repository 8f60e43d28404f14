"""Attacks, each really run: as root and as an ordinary user, in namespaces and with Landlock alone."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation is there on Linux only")

DRIVER = Path(__file__).with_name("sandbox_driver.py")
USER = 54321
LIMITS = {
    "seconds": 30,
    "cpu_seconds": 20,
    "memory": 192 * 2**20,
    "processes": 12,
    "open_files": 32,
    "file_size": 2**20,
    "disk": 4 * 2**20,
    "files": 200,
    "output": 100_000,
}

SHORT = LIMITS | {"seconds": 1.5, "cpu_seconds": 1}

FOLDER = Path(__file__).with_name("sandbox_attacks")
ATTACKS: dict[str, tuple[str, set[str]]] = {}  # name: (program, what may come of it)
for name in ("reaching_out.py", "using_up.py"):
    ATTACKS |= runpy.run_path(str(FOLDER / name))["ATTACKS"]
HANGING = [name for name, (_, allowed) in ATTACKS.items() if "timeout" in allowed]
QUICK = [name for name in ATTACKS if name not in HANGING]


def attack(layer: str, *options: str) -> dict:
    """Run all attacks in a process of its own and give what happened to the host."""
    ordered = [*QUICK, *HANGING]
    batches = [(LIMITS, [ATTACKS[name][0] for name in QUICK]), (SHORT, [ATTACKS[name][0] for name in HANGING])]
    ran = subprocess.run(
        [sys.executable, str(DRIVER), *options],
        input=json.dumps({"layer": layer, "workers": 10, "batches": batches}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    if "refused" not in answer:
        answer["outcomes"] = dict(zip(ordered, answer["outcomes"], strict=True))
    return answer


def surprises(answer: dict) -> dict[str, str]:
    """Attacks that came out otherwise than they may."""
    return {
        name: f"{status}: {output[-500:]}"
        for name, (status, output) in answer["outcomes"].items()
        if status not in ATTACKS[name][1]
    }


@pytest.mark.parametrize(
    ("who", "layer"),
    [("root", "namespaces"), ("root", "landlock"), ("user", "user namespaces"), ("user", "landlock")],
)
def test_attacks_fail_and_leave_the_host_unharmed(who, layer):
    root = os.geteuid() == 0
    if who == "root" and not root:
        pytest.skip("these tests were not started as root")
    answer = attack(layer, *(["--user", str(USER)] if who == "user" and root else []))
    if "refused" in answer and "namespaces" in layer:
        pytest.skip(f"no {layer} here: {answer['refused']}")
    assert "refused" not in answer, answer
    assert answer["described"]["isolated"]
    assert answer["harm"] == []
    assert surprises(answer) == {}


SLEEPER = """
import ctypes, os, time
ctypes.CDLL(None).prctl(15, b"@NAME@", 0, 0, 0)
try:
    os.fork()
    os.setsid()
except OSError:
    pass
time.sleep(1000)
"""


@pytest.mark.parametrize("layer", ["namespaces", "user namespaces", "landlock"])
def test_nothing_outlives_the_process_that_asked(layer, tmp_path):
    name = f"uf-{os.getpid()}-{layer[:4]}"
    asking = f"""
import sys
sys.path.insert(0, {str(DRIVER.parents[2] / "src")!r})
from ultrafuser.evaluation.sandbox import Limits, Sandbox
try:
    sandbox = Sandbox(layer={layer!r}, limits=Limits(seconds=600), workers=2)
except ValueError:
    sys.exit(3)
sandbox.run([{SLEEPER.replace("@NAME@", name)!r}] * 2)
"""
    process = subprocess.Popen([sys.executable, "-c", asking], env=os.environ | {"TMPDIR": str(tmp_path)})
    try:
        wait_until(lambda: len(named(name)) >= 2 or process.poll() is not None, "the programs never started")
        if process.poll() == 3:
            pytest.skip(f"no {layer} here")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not named(name), "programs outlived the process that asked for them")


def named(name: str) -> list[str]:
    """Processes of that name."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text().strip() == name:
                found.append(folder.name)
        except OSError:
            continue
    return found


def wait_until(condition, otherwise: str, seconds: float = 60.0) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)
