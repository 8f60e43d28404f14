"""What a gate stage costs with the specialists run at every step and with their stored hidden states.

    python benchmarks/stored_states.py                      the shipped trio on the shipped sample
    python benchmarks/stored_states.py --specialists A B C  folders of your own, with one tokenizer

Both ways take the same batches in turns in one process, so that a busy machine slows them alike; figures are medians
over the steps, whole Trainer steps included. Storing itself is timed once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
DOMAINS = ("text", "code", "math")


def main() -> None:
    """Measure and show."""
    options = _options()
    import torch

    torch.set_num_threads(options.threads)
    model, data, pad = _material(options)
    with tempfile.TemporaryDirectory() as folder:
        from ultrafuser.training.stored import bytes_needed, store_states

        started = time.perf_counter()
        states = store_states(model, data, Path(folder) / "states")
        result: dict[str, Any] = {
            "examples": len(data),
            "response_tokens": states.rows,
            "stored_mb": round(bytes_needed(model, data) / 1e6, 1),
            "storing_seconds": round(time.perf_counter() - started, 2),
            "split_ms": split(model, data, states, options),
            "trainer_step_ms": trainer_steps(model, data, pad, Path(folder), options),
        }
    step = result["trainer_step_ms"]
    result["ratio"] = round(step["online"] / step["stored"], 2)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def split(model: Any, data: Any, states: Any, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of the parts of one step: bodies (in parts of like length, as in training), gate, heads and loss."""
    import torch

    from ultrafuser.data import ResponseCollator
    from ultrafuser.modeling.gate import normalise
    from ultrafuser.modeling.loss import response_loss
    from ultrafuser.training.stored import StoredCollator

    model.requires_grad_(False)
    model.gate.requires_grad_(True)
    times: dict[str, list[float]] = {"bodies": [], "reading": [], "gate": [], "heads and loss": []}
    for batch in _batches(data, options):
        begun = time.perf_counter()
        with torch.no_grad():
            for part in range(0, len(batch), options.part):
                inputs = ResponseCollator(0)([data[i] for i in batch[part : part + options.part]])
                for j in range(model.n_specialists):
                    longest = int(inputs["sequence_mask"][:, j].sum(1).max())
                    model.specialist(j).base_model(input_ids=inputs["sequence_ids"][:, j, :longest], use_cache=False)
        times["bodies"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        stored = StoredCollator(states)([states[i] for i in batch])
        labels = stored["labels"][stored["labels"] >= 0]
        times["reading"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        weights = normalise(model.gate(stored["hidden"]))
        weights.backward(torch.rand_like(weights))
        gate = time.perf_counter() - begun
        leaf = weights.detach().requires_grad_(True)
        begun = time.perf_counter()
        response_loss(leaf, stored["hidden"], model.heads, model.config.fusion["rule"], labels).sum().backward()
        times["heads and loss"].append(time.perf_counter() - begun)
        times["gate"].append(gate)
    return {name: round(1000 * statistics.median(found), 2) for name, found in times.items()}


def trainer_steps(model: Any, data: Any, pad: Any, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds from the end of one step to the end of the next, online and stored in turns."""
    from transformers import TrainerCallback

    from ultrafuser.recipe import StageConfig
    from ultrafuser.training import run_stages

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    times: dict[str, list[float]] = {"online": [], "stored": []}
    for turn in range(options.rounds):
        for way, form in (("online", None), ("stored", "exact")):
            clock = Clock()
            stage = StageConfig(
                name="gate",
                train="gate",
                steps=options.steps,
                examples_per_category=options.examples,
                learning_rate=1e-3,
                save_every=0,
                logging_steps=10,
                stored_states=form,
            )
            run_stages(
                model,
                pad,
                [stage],
                data,
                None,
                folder / f"{way}{turn}",
                seed=turn,
                callbacks=[clock],
                tensorboard=False,
                states_dir=folder / "states",
            )
            times[way] += [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    return {way: round(1000 * statistics.median(found), 2) for way, found in times.items()}


def _batches(data: Any, options: argparse.Namespace) -> list[list[int]]:
    from ultrafuser.data import ClassBalancedBatchSampler

    sampler = ClassBalancedBatchSampler(
        data.category_index, options.examples, steps=options.steps, seed=0, lengths=data.lengths, names=data.categories
    )
    return [sampler.batch(step) for step in range(options.steps)]


def _material(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    from transformers import AutoTokenizer

    from ultrafuser import zoo
    from ultrafuser.data import ResponseDataset, load_conversations
    from ultrafuser.modeling import UltraFuserForCausalLM

    folders = options.specialists or [zoo.path(name) for name in DOMAINS]
    model = UltraFuserForCausalLM.from_specialists(
        {f"specialist{j}": str(folder) for j, folder in enumerate(folders)}, dtype="float32"
    )
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    talks = []
    for domain in DOMAINS:
        talks += load_conversations(str(zoo.sample_path(f"{domain}/train")), domain)[: options.limit]
    return (
        model,
        ResponseDataset.from_conversations(talks, model.config.templates, tokenizer, max_length=640),
        tokenizer,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specialists", nargs="+", type=Path, default=None)
    parser.add_argument("--examples", type=int, default=4, help="conversations of each domain in a batch")
    parser.add_argument("--part", type=int, default=3, help="conversations in each part of an online batch")
    parser.add_argument("--limit", type=int, default=None, help="conversations of each domain")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
