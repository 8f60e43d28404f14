"""Two processes, as torchrun or accelerate launch start them, learn what one process learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_two_processes_equal_one(specialist_folders, chat_templates, tmp_path):
    found = []
    for name, launch in (("one", []), ("two", LAUNCH)):
        setting = {
            "folders": {key: str(folder) for key, folder in specialist_folders.items()},
            "templates": chat_templates,
            "output": str(tmp_path / name),
        }
        command = [sys.executable, *launch, str(SCRIPT), json.dumps(setting)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environment, timeout=280)
        history = json.loads((tmp_path / name / "history.json").read_text())
        found.append((load_file(tmp_path / name / "final.safetensors"), history))
    (one, history_one), (two, history_two) = found
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    for a, b in zip(history_one, history_two, strict=True):
        assert (a["stage"], a["step"]) == (b["stage"], b["step"])
        assert a.keys() == b.keys()
        for key in {"loss", "loss_text", "loss_code", "eval_loss", "grad_norm"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-4), key
        for domain, weights in a.get("gate_weights", {}).items():
            assert b["gate_weights"][domain] == pytest.approx(weights, abs=1e-4)
