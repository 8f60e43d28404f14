"""Peak memory of opening and saving a fused model, against the size of its weights.

    python benchmarks/loading.py [--megabytes 60] [--json FILE]

Three specialists of random weights are written to a temporary folder; each way of opening runs in a process of its own.
The figure is (peak resident memory - that before opening) / weights; pages of files count while they are mapped.
To measure another version, set PYTHONPATH to its src.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {
    "specialists": "model = U.from_specialists(folders)",
    "specialists in bfloat16": "model = U.from_specialists(folders, dtype='bfloat16')",
    "specialists in int8": "model = U.from_specialists(folders, quantisation=dict.fromkeys(folders, 'int8'))",
    "self-contained": "model = U.from_pretrained(root / 'whole')",
    "gate only": "model = U.from_pretrained(root / 'gate')",
    "gate only, opened and saved": "U.from_pretrained(root / 'gate').save_pretrained(root / 'again', gate_only=True)",
    "hash of one": "content_hash(folders['b'])",
}
CHILD = """
import logging, sys, json
from pathlib import Path
logging.disable(logging.WARNING)
import torch
from transformers.utils import logging as quiet
quiet.disable_progress_bar()
from ultrafuser.modeling import UltraFuserForCausalLM as U, content_hash
try:
    import torchao.quantization
except ImportError:
    pass
root = Path(sys.argv[1])
folders = {name: root / name for name in "abc"}

def kilobytes(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

U.from_specialists({"tiny": root / "tiny"})
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
exec(sys.argv[2])
print(json.dumps([kilobytes("VmHWM") - before, kilobytes("VmRSS") - before]))
"""


def main() -> None:
    """Write the specialists, open them in every way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=60, help="weights of each specialist, float32")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        size = _write(Path(folder), given.megabytes)
        print(f"3 specialists, {size / 1e6:.0f} MB in all; peak and lasting memory as multiples of that")
        for way, code in WAYS.items():
            done = subprocess.run([sys.executable, "-c", CHILD, folder, code], capture_output=True, text=True)
            if done.returncode:
                print(f"{way:30} does not work here: {done.stderr.strip().splitlines()[-1][:80]}")
                continue
            peak, after = (1024 * kilobytes / size for kilobytes in json.loads(done.stdout.splitlines()[-1]))
            found[way] = {"peak": round(peak, 3), "after": round(after, 3)}
            print(f"{way:30} peak {peak:5.2f}   after {after:5.2f}", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"megabytes": size / 1e6, "ratios": found}, indent=2) + "\n")


def _write(root: Path, megabytes: int) -> int:
    """The specialists and both forms of a fused model of them; bytes of the specialists' weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ultrafuser.modeling import UltraFuserForCausalLM

    fields = {"vocab_size": 2048, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    layers = max(1, round((megabytes * 1e6 / 4 - 2 * 2048 * 512) / (4 * 512**2 + 3 * 512 * 2048)))
    size = 0
    for seed, name in enumerate(("a", "b", "c", "tiny")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**fields, num_hidden_layers=layers if name != "tiny" else 1))
        model.save_pretrained(root / name, max_shard_size="20MB")
        size += sum(4 * p.numel() for p in model.parameters()) if name != "tiny" else 0
    fused = UltraFuserForCausalLM.from_specialists({name: root / name for name in "abc"})
    fused.save_pretrained(root / "whole", max_shard_size="20MB")
    fused.save_pretrained(root / "gate", gate_only=True)
    return size


if __name__ == "__main__":
    main()
