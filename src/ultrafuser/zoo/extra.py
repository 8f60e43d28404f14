"""A further specialist from the shipped base: draw its data, tokenise, train, publish; the others stay as they are.

Resumable as the zoo's build is: every stage a folder, inside the training from the newest checkpoint.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ultrafuser.files import write_whole
from ultrafuser.hashing import content_hash
from ultrafuser.lookup import lookup
from ultrafuser.zoo import BASE, EXTRA_MODELS, EXTRAS, MODELS, SPECIALISTS, dna, sample
from ultrafuser.zoo.build import Say, check_stage, mark, run_stage, say_line
from ultrafuser.zoo.cards import render_extra_card
from ultrafuser.zoo.dna.judging import is_right
from ultrafuser.zoo.files import finished_folder
from ultrafuser.zoo.prepare import write_pieces
from ultrafuser.zoo.settings import ExtraSettings
from ultrafuser.zoo.sources import Piece

MAKERS = {"dna": dna.make}  # conversations by split, from counts and a seed
JUDGES = {"dna": is_right}  # whether a model's answer to a record is right


def pieces(records: list[dict[str, Any]]) -> list[Piece]:
    """Records of a sample or a maker as the zoo's pieces."""
    return [
        Piece(record["category"], record.get("origin", ""), record["id"], messages=record["messages"])
        for record in records
    ]


def draw_data(name: str, folder: Path, settings: ExtraSettings) -> None:
    """The domain's conversations by split, as the zoo's pieces."""
    folder.mkdir()
    for split, records in MAKERS[name](settings.counts, settings.seed).items():
        write_pieces(folder / f"{name}-{split}.jsonl", pieces(records))


def draw_files(name: str, folder: Path, counts: dict[str, int], seed: int) -> dict[str, Path]:
    """Draw a domain's conversations into FOLDER/SPLIT.jsonl; the files by split, those of no conversation left out.

    Raises ValueError for an unknown domain and a folder that exists.
    """
    maker = lookup(MAKERS, name, "NAME")
    if folder.exists():
        raise ValueError(f"DIR: {str(folder)!r} exists already; name a folder that does not")
    files = {}
    with finished_folder(folder) as temporary:
        for split, records in maker(counts, seed).items():
            if records:
                write_whole(temporary / f"{split}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
                files[split] = folder / f"{split}.jsonl"
    return files


def build_extra(
    name: str,
    work_dir: str | Path = "runs/zoo-extra",
    out_dir: str | Path | None = None,
    *,
    settings: ExtraSettings | None = None,
    threads: int = 1,
    say: Say = say_line,
) -> dict[str, Any]:
    """Build a further specialist from the shipped base and publish it; returns the summary that its zoo.json holds.

    `out_dir` defaults to the package's own folder. ValueError for an unknown name or a work folder made with other
    settings; a killed build goes on where it was.
    """
    from ultrafuser.zoo.tokens import tokenise_domain

    lookup(dict.fromkeys(EXTRAS), name, "NAME")
    work, settings = Path(work_dir), settings or ExtraSettings()
    drawn = {"seed": settings.seed, "counts": settings.counts}
    run_stage(work, "drawn", drawn, lambda out: draw_data(name, out / "texts", settings), say)
    texts, length = work / "drawn" / "texts", settings.max_length

    def make(out: Path) -> None:
        tokenise_domain(texts, MODELS / BASE, out / "arrays", name, length)

    run_stage(work, f"tokens-{name}", {"max_length": length}, make, say)
    train_extra(name, work, settings, threads, say)
    return publish_extra(name, work, Path(out_dir) if out_dir else EXTRA_MODELS / name, settings, say)


def train_extra(name: str, work: Path, settings: ExtraSettings, threads: int, say: Say) -> None:
    """Train from the shipped base and save the best weights in float32 with the training record."""
    import torch

    from ultrafuser.zoo.train import open_model, train

    torch.set_num_threads(threads)
    base = MODELS / BASE
    stage = {"training": asdict(settings.training), "base": content_hash(base)}
    checkpoints = work / f"{name}.checkpoints"

    def make(out: Path) -> None:
        if not check_stage(checkpoints, stage):
            checkpoints.mkdir()
            mark(checkpoints, stage)
        model = open_model(base)
        model.config.use_cache = False
        record = train(name, model, work / f"tokens-{name}" / "arrays", checkpoints, settings.training, say)
        model.save_pretrained(out / "model")
        write_whole(out / "training.json", json.dumps(record, indent=2) + "\n")

    run_stage(work, name, stage, make, say)
    shutil.rmtree(checkpoints, ignore_errors=True)


def publish_extra(name: str, work: Path, out: Path, settings: ExtraSettings, say: Say) -> dict[str, Any]:
    """Write the model's folder with card and zoo.json, replacing what was there when all is whole."""
    from ultrafuser.zoo.publish import read_json, save_model

    with finished_folder(out) as folder:
        positions = read_json(MODELS / BASE / "config.json")["max_position_embeddings"]
        parameters = save_model(work / name / "model", MODELS / BASE, name, positions, folder)
        training = read_json(work / name / "training.json")
        training["data"] = read_json(work / f"tokens-{name}" / "arrays" / "report.json")
        summary = measure(name, folder, settings) | {
            "parameters": parameters,
            "dtype": "bfloat16",
            "base": content_hash(MODELS / BASE),
            "training": training,
            "settings": asdict(settings),
        }
        write_whole(folder / "README.md", render_extra_card(name, summary))
        write_whole(folder / "zoo.json", json.dumps(summary, indent=2) + "\n")
    for model, row in summary["loss"].items():
        say(f"held-out loss of {model}: " + ", ".join(f"{domain} {loss:.3f}" for domain, loss in row.items()))
    say(f"published to {out}")
    return summary


def measure(name: str, folder: Path, settings: ExtraSettings) -> dict[str, Any]:
    """Losses of the shipped models and the one in `folder` on the sample's held-out part and on the domain's own, and
    the share of its greedy answers that are right, by kind of task.
    """
    from ultrafuser.zoo.evaluate import greedy_answers, loss_table, margins

    records = MAKERS[name](settings.counts, settings.seed)["heldout"]
    heldout = {domain: pieces(sample.load(domain, "heldout")) for domain in SPECIALISTS} | {name: pieces(records)}
    folders = {other: MODELS / other for other in (BASE, *SPECIALISTS)} | {name: folder}
    table = loss_table(folders, heldout, settings.max_length)
    losses = {model: {d: round(loss.per_token, 4) for d, loss in row.items()} for model, row in table.items()}
    answers = greedy_answers(folder, [record["messages"][:-1] for record in records])
    right: dict[str, list[bool]] = {}
    for record, answer in zip(records, answers, strict=True):
        right.setdefault(record["task"], []).append(JUDGES[name](record, answer))
    return {
        "loss_unit": "nats per response token; text, code and math of the shipped sample, each model under its own "
        "template",
        "loss": losses,
        "margin": round(margins(losses)[name], 4),
        "heldout": {d: {"examples": x.examples, "response_tokens": x.tokens} for d, x in table[BASE].items()},
        "solved": {task: round(sum(found) / len(found), 4) for task, found in right.items()},
    }
