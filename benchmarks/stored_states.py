"""What a gate stage costs with the specialists run at every step and with their stored hidden states.

    python benchmarks/stored_states.py                      the shipped trio on the shipped sample
    python benchmarks/stored_states.py --specialists A B C  folders of your own, with one tokenizer
    python benchmarks/stored_states.py --base M             three copies of M, two of them with random low-rank changes

Both ways take the same batches in turns in one process; figures are medians over the steps from the second epoch on,
whole Trainer steps included, of the processor's time, which on one thread is what a step takes where nothing else runs.
Storing is timed once.
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

    from ultrafuser.training import predictions, stored

    torch.set_num_threads(options.threads)
    model, data, pad = _material(options)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        parent, begun = Path(folder) / "states", time.process_time()
        states = stored.store_states(model, data, parent)
        result: dict[str, Any] = {"examples": len(data), "response_tokens": states.rows}
        result["storing_states_s"], begun = round(time.process_time() - begun, 2), time.process_time()
        kind = predictions.choose_kind(model, states.rows, parent)
        states.predictions = predictions.store_predictions(model, states, kind) if kind is not None else None
        result["storing_predictions_s"] = round(time.process_time() - begun, 2)
        result |= {"predictions": kind, "states_mb": round(stored.bytes_needed(model, data) / 1e6, 1)}
        result["stored_mb"] = round(states.size() / 1e6, 1)
        result["split_ms"] = split(model, data, states, options)
        result["trainer_step_ms"] = trainer_steps(model, data, pad, Path(folder), options)
    step = result["trainer_step_ms"]
    result["ratio"] = round(step["online"] / step["stored"], 2)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def split(model: Any, data: Any, states: Any, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of the parts of a step from stored states, and the most that its token losses differ from online."""
    import torch

    from ultrafuser.data import ResponseCollator
    from ultrafuser.modeling.gate import normalise
    from ultrafuser.training.stored import StoredCollator
    from ultrafuser.training.stored_fusion import fused_from_states

    model.requires_grad_(False)
    model.gate.requires_grad_(True)
    times: dict[str, list[float]] = {"reading": [], "gate": [], "gate and loss": []}
    for batch in _batches(data, options):
        begun = time.process_time()
        stored = StoredCollator(states)([states[i] for i in batch])
        times["reading"].append(time.process_time() - begun)
        begun = time.process_time()
        weights = normalise(model.gate(stored["hidden"]))
        weights.backward(torch.rand_like(weights))
        times["gate"].append(time.process_time() - begun)
        begun = time.process_time()
        fused = fused_from_states(model, stored["hidden"], stored["labels"], stored["known"])
        fused.total.backward()
        times["gate and loss"].append(time.process_time() - begun)
    found = {name: round(1000 * statistics.median(found), 2) for name, found in times.items()}
    with torch.no_grad():
        online = model(**ResponseCollator(0)([data[i] for i in batch])).token_loss
    return found | {
        "largest_difference_of_a_loss": (online - fused.token_loss).abs().max().item(),
        "bound": fused.bound,
    }


def trainer_steps(model: Any, data: Any, pad: Any, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds from the end of one step to the end of the next, online and stored in turns."""
    from transformers import TrainerCallback

    from ultrafuser.recipe import StageConfig
    from ultrafuser.training import run_stages

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            self.ends.append(time.process_time())

    times: dict[str, list[float]] = {"online": [], "stored": []}
    epoch = -(-len(data) // (options.examples * len(DOMAINS)))  # steps
    for turn in range(options.rounds):
        for way, form in (("online", None), ("stored", "exact")):
            clock = Clock()
            stage = StageConfig(
                name="gate",
                train="gate",
                steps=epoch + options.steps,
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
            times[way] += [b - a for a, b in zip(clock.ends[epoch - 1 :], clock.ends[epoch:], strict=False)]
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

    if options.base is not None:
        sources, tokenizer = _three_of(options.base)
    else:
        folders = options.specialists or [zoo.path(name) for name in DOMAINS]
        sources = {f"specialist{j}": str(folder) for j, folder in enumerate(folders)}
        tokenizer = AutoTokenizer.from_pretrained(folders[0])
    templates = ["chatml"] * len(sources) if options.base is not None else None
    model = UltraFuserForCausalLM.from_specialists(sources, templates=templates, dtype="float32", fusion=options.rule)
    talks = []
    for domain in DOMAINS:
        talks += load_conversations(str(zoo.sample_path(f"{domain}/train")), domain)[: options.limit]
    return (
        model,
        ResponseDataset.from_conversations(talks, model.config.templates, tokenizer, max_length=options.max_length),
        tokenizer,
    )


def _three_of(base: Path) -> tuple[dict[str, Any], Any]:
    """The model of a folder three times, the second and third with random changes of rank 4 in every down projection.

    What is not changed lies in memory once.
    """
    import copy

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found, draw = {"specialist0": first}, torch.Generator().manual_seed(0)
    for j in (1, 2):
        other = copy.deepcopy(first, {id(parameter): parameter for parameter in first.parameters()})
        for module in other.modules():
            if hasattr(module, "down_proj"):
                weight = module.down_proj.weight
                change = torch.randn(len(weight), 4, generator=draw) @ torch.randn(4, weight.shape[1], generator=draw)
                change *= 0.1 * weight.norm() / change.norm()
                module.down_proj.weight = torch.nn.Parameter(weight.detach() + change)
        found[f"specialist{j}"] = other
    return found, AutoTokenizer.from_pretrained(base)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specialists", nargs="+", type=Path, default=None)
    parser.add_argument("--base", type=Path, default=None)
    parser.add_argument("--rule", default="logits")
    parser.add_argument("--scratch", type=Path, default=None, help="where states are stored meanwhile")
    parser.add_argument("--max-length", type=int, default=640)
    parser.add_argument("--examples", type=int, default=4, help="conversations of each domain in a batch")
    parser.add_argument("--limit", type=int, default=None, help="conversations of each domain")
    parser.add_argument("--steps", type=int, default=20, help="timed steps, after a first epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
