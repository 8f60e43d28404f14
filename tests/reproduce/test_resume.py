"""The real command, killed with SIGKILL in the middle of a training, goes on and ends with the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ultrafuser.reproduce import make_plan, reproduce

PATIENCE = 900.0  # seconds; a few on an idle machine


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and process groups")
def test_killed_it_goes_on(micro_recipe, tmp_path) -> None:
    recipe, folder = tmp_path / "long.yaml", tmp_path / "run"
    recipe.write_text(micro_recipe.read_text().replace("train: all, steps: 2", "train: all, steps: 12, save_every: 2"))
    command = [sys.executable, "-m", "ultrafuser", "reproduce", "--scale", "smoke", "--only", "table6"]
    command += ["--recipe", str(recipe), "-o", str(folder), "--json", "-"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    try:
        while not list(folder.glob("work/fused*/model/work/2-all/checkpoint-*")):
            assert time.monotonic() < end, "no checkpoint"
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)  # to the command alone: its worker must end by itself
        process.wait()
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "fused/seed-0: begins" in second.stderr
    assert "train all 1 of 12" not in second.stderr  # it went on from a checkpoint
    whole = reproduce(tmp_path / "whole", make_plan("smoke", ["table6"], recipe=recipe), workers=0)
    for name, cells in json.loads(second.stdout)["table6"].items():
        for column, cell in cells.items():
            assert cell["mean"] == pytest.approx(whole.numbers()["table6"][name][column]["mean"], rel=1e-4)
