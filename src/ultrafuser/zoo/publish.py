"""Turns a finished work folder into the shipped one: 16-bit weights, tokenizers with templates, cards and zoo.json."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from ultrafuser.files import write_whole
from ultrafuser.zoo import BASE, SPECIALISTS
from ultrafuser.zoo.cards import render_card
from ultrafuser.zoo.evaluate import loss_table, margins
from ultrafuser.zoo.files import finished_folder
from ultrafuser.zoo.prepare import read_pieces
from ultrafuser.zoo.settings import BuildSettings
from ultrafuser.zoo.sources import SOURCES
from ultrafuser.zoo.tokens import load_tokenizer, wrap

NEEDED_MARGIN = 0.3


def save_model(trained: Path, tokenizer: Path, name: str, positions: int, out: Path) -> int:
    """Write one model as a Transformers folder with bfloat16 weights; returns its number of parameters."""
    model = LlamaForCausalLM.from_pretrained(trained, dtype=torch.float32).to(torch.bfloat16)
    model.config.use_cache = True  # the training loop had turned it off
    wrapped = wrap(load_tokenizer(tokenizer), name, positions)
    model.generation_config = GenerationConfig(
        eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id, max_new_tokens=256
    )
    model.save_pretrained(out)
    # One file per folder is what every loader reads; a template in a file of its own is newer than some of them.
    wrapped.save_pretrained(out, save_jinja_files=False)
    for file in out.iterdir():
        file.chmod(0o644)  # weights are written readable by their owner only
    return sum(parameter.numel() for parameter in model.parameters())


def read_json(file: Path) -> Any:
    """A JSON file's value."""
    return json.loads(file.read_text(encoding="utf-8"))


def training_records(work: Path) -> dict[str, dict[str, Any]]:
    """What each training run noted, with the examples and tokens it was given."""
    records = {}
    for name in (BASE, *SPECIALISTS):
        records[name] = read_json(work / name / "training.json")
        records[name]["data"] = read_json(work / f"tokens-{name}" / "arrays" / "report.json")
    return records


def summarise(work: Path, folder: Path, settings: BuildSettings, parameters: int) -> dict[str, Any]:
    """Measure the saved models and gather everything that the cards and zoo.json say."""
    texts = work / "prepared" / "texts"
    heldout = {domain: read_pieces(texts / f"{domain}-heldout.jsonl") for domain in SPECIALISTS}
    table = loss_table({name: folder / name for name in (BASE, *SPECIALISTS)}, heldout, settings.max_length)
    losses = {name: {domain: round(loss.per_token, 4) for domain, loss in row.items()} for name, row in table.items()}
    return {
        "loss_unit": "nats per response token, held-out, each model under its own template",
        "loss": losses,
        "margin": {domain: round(margin, 4) for domain, margin in margins(losses).items()},
        "heldout": {
            domain: {"examples": loss.examples, "response_tokens": loss.tokens} for domain, loss in table[BASE].items()
        },
        "parameters": parameters,
        "dtype": "bfloat16",
        "training": training_records(work),
        "data": read_json(texts / "report.json"),
        "sources": {
            source.name: {"domain": source.domain, "licence": source.licence, "raw": source.raw, "file": source.file}
            for source in SOURCES.values()
        },
        "settings": asdict(settings),
    }


def publish(work: Path, out: Path, settings: BuildSettings, say: Any = print) -> dict[str, Any]:
    """Write the four model folders, their cards and zoo.json to `out`, replacing what was there when all is whole."""
    tokenizer = work / "tokenizer" / "model"
    with finished_folder(out) as folder:
        for name in (BASE, *SPECIALISTS):
            trained = work / name / "model"
            parameters = save_model(trained, tokenizer, name, settings.shape.positions, folder / name)
        summary = summarise(work, folder, settings, parameters)
        for name in (BASE, *SPECIALISTS):
            write_whole(folder / name / "README.md", render_card(name, summary))
        write_whole(folder / "zoo.json", json.dumps(summary, indent=2) + "\n")
    for name, row in summary["loss"].items():
        say(f"held-out loss of {name}: " + ", ".join(f"{domain} {loss:.3f}" for domain, loss in row.items()))
    weak = {domain: margin for domain, margin in summary["margin"].items() if margin < NEEDED_MARGIN}
    say(f"published to {out}" + (f"; specialists ahead by less than {NEEDED_MARGIN} nats: {weak}" if weak else ""))
    return summary
