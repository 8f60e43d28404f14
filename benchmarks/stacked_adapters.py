"""Three adapters on one base as one stacked batch, against the base alone and against three separate models.

    python benchmarks/stacked_adapters.py                                     a tiny random base
    python benchmarks/stacked_adapters.py --hidden 512 --layers 8 --vocabulary 16000
    python benchmarks/stacked_adapters.py --base FOLDER_OR_GGUF --adapters FOLDER FOLDER FOLDER

Time of a decoding step and of a training step (adapters learn): one process, the variants taking turns, so that a busy
machine slows all of them alike; the figure is the median over the rounds. Peak memory of one decoding and, apart from
that, of one training step: a process for each variant. "one" is the base with one adapter, as an ordinary fused model
of one specialist.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
NAMES = ("text", "code", "math")
VARIANTS = ("base", "one", "stacked", "separate")
PROMPT, SEQUENCE = 32, 96  # tokens of the made-up prompts and training sequences


def main() -> None:
    """Measure and show."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        if options.base is None:
            options.base, options.adapters = _random(options, Path(scratch))
        if options.peak:
            print(_peak(options))
            return
        variants = [name for name in VARIANTS if name != "separate" or not options.without_separate]
        result = times(options, variants) | {"peak_mb": {k: _in_process(options, k) for k in _peaks(variants)}}
    for title, values in result.items():
        print(f"\n{title}")
        for name, value in values.items():
            reference = values["base" if "base" in values else "train one" if name[0] == "t" else "decode base"]
            print(f"  {name:<16} {value:10.1f}   x{value / reference:.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def times(options: argparse.Namespace, variants: list[str]) -> dict[str, dict[str, float]]:
    """Milliseconds of a decoding step and of a training step by variant."""
    import torch

    torch.set_num_threads(options.threads)
    models = {name: _open(options, name) for name in variants}
    found: dict[str, dict[str, float]] = {}
    for batch in options.batch:
        work = {name: _decoding(model, batch, options.tokens) for name, model in models.items()}
        seconds = _medians(work, options.rounds)
        found[f"decoding step, batch {batch}, ms"] = {k: 1000 * v / options.tokens for k, v in seconds.items()}
    learning = {name: _training(model, options.examples) for name, model in models.items() if name != "base"}
    seconds = _medians(learning, options.rounds)
    found["training step, ms"] = {"base": 1000 * seconds["one"]} | {k: 1000 * v for k, v in seconds.items()}
    return found


def _open(options: argparse.Namespace, variant: str) -> list[Any]:
    """The models of a variant: one, or three separate ones."""
    from ultrafuser.modeling import UltraFuserForCausalLM

    def fuse(names: list[str]) -> Any:
        sources = {name: str(options.adapters[NAMES.index(name)]) for name in names}
        return UltraFuserForCausalLM.from_specialists(
            sources, bases=dict.fromkeys(names, str(options.base)), dtype=options.dtype
        )

    if variant == "base":
        return [UltraFuserForCausalLM.from_specialists({"base": str(options.base)}, dtype=options.dtype)]
    names = list(NAMES)
    return (
        [fuse([name]) for name in names] if variant == "separate" else [fuse(names[:1] if variant == "one" else names)]
    )


def _decoding(models: list[Any], batch: int, tokens: int) -> Callable[[], None]:
    import torch

    prompt_BP = torch.randint(5, 90, (batch, PROMPT), generator=torch.Generator().manual_seed(0)).tolist()
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

    def run() -> None:
        for model in models:
            model.generate(**model.prepare_prompts([[row] * model.n_specialists for row in prompt_BP]), **settings)

    return run


def _training(models: list[Any], examples: int) -> Callable[[], None]:
    import torch

    from ultrafuser.training.parameters import select_trainable

    ids_BT = torch.randint(5, 90, (examples, SEQUENCE), generator=torch.Generator().manual_seed(1))
    index_BR = torch.arange(SEQUENCE // 2, SEQUENCE - 1).expand(examples, -1)
    for model in models:
        select_trainable(model, "specialists")

    def run() -> None:
        for model in models:
            n = model.n_specialists
            batch = {"sequence_ids": ids_BT.unsqueeze(1).expand(-1, n, -1), "labels": ids_BT[:, SEQUENCE // 2 + 1 :]}
            model(**batch, response_index=index_BR.unsqueeze(1).expand(-1, n, -1)).loss.backward()
            model.zero_grad()

    return run


def _medians(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for count in range(rounds + 1):  # the first warms up
        for name, work in variants.items():
            started = time.perf_counter()
            work()
            if count:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _peaks(variants: list[str]) -> list[str]:
    return [f"decode {name}" for name in variants] + [f"train {name}" for name in variants if name != "base"]


def _in_process(options: argparse.Namespace, what: str) -> float:
    command = [sys.executable, __file__, "--peak", what, "--base", str(options.base), "--dtype", options.dtype]
    command += ["--adapters", *map(str, options.adapters), "--tokens", "4", "--examples", str(options.examples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _peak(options: argparse.Namespace) -> float:
    """Largest resident size of this process in MB, libraries included (not ru_maxrss: it begins at the parent's)."""
    kind, variant = options.peak.split()
    models = _open(options, variant)
    (_decoding(models, 1, options.tokens) if kind == "decode" else _training(models, options.examples))()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _random(options: argparse.Namespace, folder: Path) -> tuple[Path, list[Path]]:
    """A random Llama and three random adapters on all its linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=max(2, options.hidden // 64),
        num_key_value_heads=max(2, options.hidden // 128),
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    for name in NAMES:
        base = AutoModelForCausalLM.from_pretrained(folder / "base")
        settings = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear")
        get_peft_model(base, settings).save_pretrained(folder / name)
    return folder / "base", [folder / name for name in NAMES]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder or .gguf file; without it a random Llama")
    parser.add_argument("--adapters", type=Path, nargs=3, metavar="FOLDER", help="three adapters on the base")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, default=32, help="new tokens to decode")
    parser.add_argument("--examples", type=int, default=4, help="examples of a training step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without-separate", action="store_true", help="leave out three separate models (memory)")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
