"""What batching and sorting by length bring an evaluation: answers and log-likelihoods, each done three ways.

    python benchmarks/eval_speed.py                          the shipped trio, fused, on its held-out sample
    python benchmarks/eval_speed.py --model FOLDER           another model; a .gguf file works too

One example at a time, batches in the order of the data, batches of like length: in one process, taking turns, so that
a busy machine slows all of them alike. The figure is the median over the rounds. Everything is done by
`ultrafuser.generation`, which `ultrafuser eval` calls; what grading costs is not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ultrafuser import zoo

ONE, GIVEN, ALIKE = "one at a time", "batches, order of the data", "batches of like length"
Conversation = list[dict[str, str]]


def main() -> None:
    """Measure and show."""
    options = _options()
    import torch

    torch.set_num_threads(options.threads)
    model, tokenizer = _open(options.model)
    conversations = _conversations(options.items)
    result = {
        "model": options.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": options.threads,
        "batch_size": options.batch,
        "items": len(conversations),
        "answers_seconds": answers(model, tokenizer, conversations, options),
        "likelihoods_seconds": log_likelihoods(model, tokenizer, conversations, options),
    }
    for kind in ("answers", "likelihoods"):
        seconds = result[f"{kind}_seconds"]
        print(f"\n{kind}, {len(conversations)} items, batches of {options.batch}, {options.threads} thread(s)")
        for name, value in seconds.items():
            print(f"  {name:<28} {value:8.2f} s   x{seconds[ONE] / value:.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def answers(model: Any, tokenizer: Any, conversations: Sequence[Conversation], options: Any) -> dict[str, float]:
    """Seconds of greedy answers, which end by themselves or at the limit."""
    from ultrafuser.generation import generate_batch

    prompts = [conversation[:-1] for conversation in conversations]
    alike = sorted(prompts, key=_length, reverse=True)

    def run(ordered: Sequence[Conversation], batch: int) -> Callable[[], Any]:
        return lambda: list(
            generate_batch(model, tokenizer, ordered, batch_size=batch, max_new_tokens=options.max_new_tokens)
        )

    variants = {ONE: run(prompts, 1), GIVEN: run(prompts, options.batch), ALIKE: run(alike, options.batch)}
    return _medians(variants, options.rounds)


def log_likelihoods(
    model: Any, tokenizer: Any, conversations: Sequence[Conversation], options: Any
) -> dict[str, float]:
    """Seconds of the log-likelihoods of the reference answers."""
    from ultrafuser.generation.likelihood import likelihoods

    queries = [(conversation[:-1], conversation[-1]["content"], True) for conversation in conversations]
    chunks = [queries[start : start + options.batch] for start in range(0, len(queries), options.batch)]
    variants = {
        ONE: lambda: likelihoods(model, tokenizer, queries, batch_size=1),
        GIVEN: lambda: [likelihoods(model, tokenizer, chunk, batch_size=options.batch) for chunk in chunks],
        ALIKE: lambda: likelihoods(model, tokenizer, queries, batch_size=options.batch),
    }
    return _medians(variants, options.rounds)


def _medians(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _length(conversation: Conversation) -> int:
    return sum(len(message["content"]) for message in conversation)


def _conversations(items: int) -> list[Conversation]:
    """Held-out pairs of the shipped sample, the domains taking turns."""
    from ultrafuser.data import load_conversations

    domains = [load_conversations(zoo.sample_path(f"{name}/heldout"), name) for name in ("text", "code", "math")]
    mixed = [list(conversation.messages) for row in zip(*domains, strict=False) for conversation in row]
    return mixed[:items]


def _open(source: str) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    from ultrafuser.cli.opening import open_fused
    from ultrafuser.modeling import UltraFuserForCausalLM

    if source != "zoo":
        opened = open_fused(source)
        return opened.model, opened.tokenizer
    folders = {name: zoo.path(name) for name in ("text", "code", "math")}
    return UltraFuserForCausalLM.from_specialists(folders).eval(), AutoTokenizer.from_pretrained(folders["text"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zoo", help="a model's folder or .gguf file; zoo: the shipped trio, fused")
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
