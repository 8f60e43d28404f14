"""What fusion costs: decoding, one training step, and the memory of the loss. Prints a table, writes JSON.

    python benchmarks/fused_cost.py                       the shipped trio
    python benchmarks/fused_cost.py --hidden 512 --layers 8 --vocabulary 16000      random models of a chosen size

Everything is measured in one process, the variants taking turns, so that a busy machine slows all of them alike; the
figure is the median over the rounds. It does not know how a server with many requests behaves.

B batch, N specialists, M response positions laid end to end, D hidden, V vocabulary.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
NAMES = ("text", "code", "math")
LOSSES = {  # label: function, whether specialists learn
    "all N x V logits (reference)": ("response_loss_reference", True),
    "stage 2": ("response_loss", True),
    "stage 1": ("response_loss", False),
}
PROMPT, RESPONSE = 64, 128  # tokens of the made-up examples


def main() -> None:
    """Measure and show."""
    options = _options()
    import torch

    torch.set_num_threads(options.threads)
    specialists = _specialists(options)
    result: dict[str, Any] = {
        "parameters": {"one": _count(specialists["text"]), "three": sum(map(_count, specialists.values()))},
        "threads": options.threads,
        "decode_tokens_per_second": {},
    }
    for batch in options.batch:
        result["decode_tokens_per_second"][str(batch)] = decode(specialists, batch, options.tokens, options.rounds)
    result["training_step_ms"] = training_step(specialists, options.examples, options.rounds)
    result["loss_peak_mb"] = loss_memory(options)
    _show(result, options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def decode(specialists: Mapping[str, Any], batch: int, tokens: int, rounds: int) -> dict[str, float]:
    """Tokens per second of greedy decoding with a cache: one specialist, the fused trio, three one after the other."""
    import torch

    fused = _fuse(specialists)
    generator = torch.Generator().manual_seed(0)
    prompt_BP = torch.randint(5, 200, (batch, PROMPT), generator=generator)
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    own = fused.prepare_prompts([[row] * len(specialists) for row in prompt_BP.tolist()])

    def alone(model: Any) -> None:
        model.generate(prompt_BP, attention_mask=torch.ones_like(prompt_BP), **settings)

    def one_by_one() -> None:
        for model in specialists.values():
            alone(model)

    variants: dict[str, Callable[[], None]] = {
        "one specialist": lambda: alone(specialists["text"]),
        "fused trio": lambda: fused.generate(**own, **settings),
        "three one by one": one_by_one,
    }
    seconds = _medians(variants, rounds)
    return {name: batch * tokens / value for name, value in seconds.items()}


def training_step(specialists: Mapping[str, Any], examples: int, rounds: int) -> dict[str, float]:
    """Milliseconds of one AdamW step on the same examples: a plain specialist, stage 1, stage 2."""
    import torch

    fused, single = _fuse(specialists), _fuse({"text": specialists["text"]})
    length = PROMPT + RESPONSE
    ids_BT = torch.randint(5, 200, (examples, length), generator=torch.Generator().manual_seed(1))
    labels_BT = torch.where(torch.arange(length) >= PROMPT, ids_BT, -100)
    plain = specialists["text"]

    def step(model: Any, batch: dict[str, Any], learns: Callable[[str], bool]) -> Callable[[], None]:
        def run() -> None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(learns(name))
            parameters = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(parameters, lr=1e-6)
            model.train()
            started = time.perf_counter()
            model(**batch).loss.backward()
            optimizer.step()
            run.seconds = time.perf_counter() - started  # type: ignore[attr-defined]
            optimizer.zero_grad(set_to_none=True)
            model.eval()

        return run

    variants = {
        "one specialist, plain": step(plain, {"input_ids": ids_BT, "labels": labels_BT}, lambda name: True),
        "one specialist, fused alone": step(single, _aligned(ids_BT, 1), lambda name: "specialist" in name),
        "stage 1 (gate)": step(fused, _aligned(ids_BT, 3), lambda name: name.startswith("gate")),
        "stage 2 (everything)": step(fused, _aligned(ids_BT, 3), lambda name: True),
    }
    return {name: 1000 * value for name, value in _medians(variants, rounds).items()}


def loss_memory(options: argparse.Namespace) -> dict[str, float]:
    """Peak megabytes over the inputs of forward and backward of the loss, each in a process of its own."""
    shape = (options.loss_positions, 3, options.loss_hidden, options.loss_vocabulary)
    found = {}
    context = multiprocessing.get_context("spawn")
    for label, (name, learns) in LOSSES.items():
        with context.Pool(1) as pool:
            found[label] = pool.apply(_peak_of, (name, learns, shape))
    return found


def _peak_of(name: str, learns: bool, shape: tuple[int, int, int, int]) -> float:
    import torch
    from torch import nn

    from ultrafuser.modeling import loss
    from ultrafuser.modeling.head import Head

    torch.set_num_threads(1)
    n_positions, n_specialists, hidden, vocabulary = shape
    heads = []
    for _ in range(n_specialists):
        module = nn.Linear(hidden, vocabulary, bias=False).requires_grad_(learns)
        heads.append(Head(module, 1.0, None, vocabulary))
    hidden_MD = [torch.randn(n_positions, hidden, requires_grad=learns) for _ in range(n_specialists)]
    weights_MN = torch.full((n_positions, n_specialists), 1 / n_specialists, requires_grad=True)
    labels_M = torch.randint(0, vocabulary, (n_positions,))
    _forget_peak()
    before = _peak()
    getattr(loss, name)(weights_MN, hidden_MD, heads, "logits", labels_M).mean().backward()
    return _peak() - before


def _peak() -> float:
    """Megabytes of the process's highest memory use since `_forget_peak`, or since it began where that cannot be."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is in use now


def _medians(variants: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant; one round to warm up, then the variants take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            taken = getattr(run, "seconds", time.perf_counter() - started)
            if turn:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _aligned(ids_BT: Any, n_specialists: int) -> dict[str, Any]:
    import torch

    batch, length = ids_BT.shape
    ids_BNT = ids_BT[:, None].expand(batch, n_specialists, length).contiguous()
    index_R = torch.arange(PROMPT - 1, length - 1)
    return {
        "sequence_ids": ids_BNT,
        "sequence_mask": torch.ones_like(ids_BNT),
        "response_index": index_R.expand(batch, n_specialists, -1).contiguous(),
        "labels": ids_BT[:, PROMPT:].contiguous(),
    }


def _fuse(specialists: Mapping[str, Any]) -> Any:
    from ultrafuser.modeling import UltraFuserForCausalLM

    return UltraFuserForCausalLM.from_specialists(dict(specialists))


def _specialists(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if not options.hidden:
        from ultrafuser import zoo

        return {name: AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32) for name in NAMES}
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=int(options.hidden * 2.75),
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.hidden // 64),
        num_key_value_heads=max(1, options.hidden // 64),
        tie_word_embeddings=True,
    )
    return {name: LlamaForCausalLM(config).eval() for name in NAMES}


def _count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _show(result: dict[str, Any], options: argparse.Namespace) -> None:
    one = result["parameters"]["one"]
    print(f"three specialists of {one / 1e6:.2f}M parameters, {options.threads} thread(s), median of {options.rounds}")
    for batch, speeds in result["decode_tokens_per_second"].items():
        _table(f"decode, batch {batch}, {options.tokens} tokens: tokens per second", speeds, "one specialist")
    title = f"training step, {options.examples} examples of {PROMPT}+{RESPONSE} tokens: milliseconds"
    _table(title, result["training_step_ms"], "one specialist, plain")
    shape = f"{options.loss_positions} positions, 3 x {options.loss_hidden} hidden, {options.loss_vocabulary} tokens"
    _table(f"peak memory of loss and its gradient, {shape}: MB", result["loss_peak_mb"], next(iter(LOSSES)))


def _table(title: str, values: Mapping[str, float], base: str) -> None:
    print(f"\n{title}")
    for name, value in values.items():
        print(f"  {name:<30}{value:>10.1f}   x{value / values[base]:.2f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=0, help="hidden size of random models; 0: the shipped trio")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=96, help="new tokens to decode")
    parser.add_argument("--examples", type=int, default=12, help="examples of a training step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loss-positions", type=int, default=2048)
    parser.add_argument("--loss-hidden", type=int, default=128)
    parser.add_argument("--loss-vocabulary", type=int, default=32000)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
