"""Runs stages in forked children that a test may kill: imports once, forks for every line of JSON on standard input.

Request: {"output": DIR, "die_after": {"NAME": n}, ...}; answers "pid" at once and "status" when the child has ended.
die_after kills the child with SIGKILL right after the n-th call of a function; "torn" instead tears a file and dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from safetensors.torch import save_file
from tiny_runs import dataset, stage
from transformers import AutoTokenizer

import ultrafuser.training.history as history
import ultrafuser.training.trainer as trainer
import ultrafuser.training.work as work
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.training import TrainingInterrupted, run_stages

STAGES = (
    stage("gate", steps=5, save_every=2, eval_every=3),
    stage("all", steps=5, save_every=2, eval_every=3, accumulation=2, learning_rate=3e-3),
)


def die() -> None:
    """What kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(owner: Any, name: str, n: int) -> None:
    """Kill this process right after the n-th call of `owner.name`."""
    original, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls[0] += 1
        if calls[0] == n:
            die()
        return result

    setattr(owner, name, wrapped)


def tear_weights(n: int) -> None:
    """At the n-th writing of weights, write half of the file and die."""
    original, calls = trainer.save_weights, [0]

    def wrapped(state: Any, folder: Path) -> None:
        original(state, folder)
        calls[0] += 1
        if calls[0] == n:
            file = folder / "weights.safetensors"
            os.truncate(file, file.stat().st_size // 2)
            die()

    trainer.save_weights = wrapped


POINTS = {
    "publish": (trainer, "publish_folder"),
    "replace": (os, "replace"),
    "step": (torch.optim.AdamW, "step"),
    "append": (history.History, "append"),
    "finish": (work.StageFolder, "finish"),
    "rng": (trainer.FuserTrainer, "_save_rng_state"),
}


def run(folders: dict[str, str], templates: dict[str, str], tokenizer: Any, request: dict[str, Any]) -> None:
    """One run of both stages, saved as output/final.safetensors."""
    for name, n in request.get("die_after", {}).items():
        die_after(*POINTS[name], n)
    if "torn" in request:
        tear_weights(request["torn"])
    model = UltraFuserForCausalLM.from_specialists(folders, templates=templates, seed=3)
    train = dataset(templates.values(), tokenizer, 0)
    validation = dataset(templates.values(), tokenizer, 1, text=2, code=2, math=2)
    output = Path(request["output"])
    result = run_stages(model, tokenizer, STAGES, train, validation, output, seed=0)
    (output / "history.json").write_text(json.dumps(result.history))
    save_file({name: p.detach().clone() for name, p in model.named_parameters()}, output / "final.safetensors")


def main() -> None:
    """Serve requests until standard input is closed."""
    setting = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(next(iter(setting["folders"].values())))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                run(setting["folders"], setting["templates"], tokenizer, json.loads(line))
                status = 0
            except TrainingInterrupted as stopped:
                status = 128 + stopped.signum
            finally:
                os._exit(status)
        answers.write(f"{pid}\n")
        answers.flush()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


if __name__ == "__main__":
    main()
