"""Both stages in this process, which is one of several: started by torch.distributed.run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from safetensors.torch import save_file
from tiny_runs import dataset, stage
from transformers import AutoTokenizer

from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.training import run_stages

STAGES = (stage("gate", steps=3), stage("all", steps=3, accumulation=1, learning_rate=1e-3, loss="example_sum"))


def main() -> None:
    """Train; the main process saves the weights."""
    setting = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    model = UltraFuserForCausalLM.from_specialists(setting["folders"], templates=setting["templates"], seed=3)
    tokenizer = AutoTokenizer.from_pretrained(next(iter(setting["folders"].values())))
    train = dataset(setting["templates"].values(), tokenizer, 0)
    validation = dataset(setting["templates"].values(), tokenizer, 1, text=2, code=2, math=2)
    output = Path(setting["output"])
    result = run_stages(model, tokenizer, STAGES, train, validation, output, seed=0)
    if os.environ.get("RANK", "0") == "0":
        (output / "history.json").write_text(json.dumps(result.history))
        save_file({name: p.detach().clone() for name, p in model.named_parameters()}, output / "final.safetensors")


if __name__ == "__main__":
    main()
