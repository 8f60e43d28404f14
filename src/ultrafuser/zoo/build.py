"""The build of the zoo, stage by stage: prepare, tokenise, pre-train the base, specialise, evaluate, publish.

Every stage writes a folder under a temporary name and renames it when whole; a build started again goes on where the
last one was killed, inside a training run from its newest checkpoint.
"""

import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ultrafuser.files import locked, write_whole
from ultrafuser.zoo import BASE, MODELS, SPECIALISTS
from ultrafuser.zoo.files import finished_folder
from ultrafuser.zoo.settings import BuildSettings

Say = Callable[[str], None]
NAMES = (BASE, *SPECIALISTS)


def say_line(text: str) -> None:
    """Print a progress line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def check_stage(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a stage's folder is there; ValueError when it was made with other settings."""
    if not folder.exists():
        return False
    file = folder / "settings.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if found != json.loads(json.dumps(settings)):
        raise ValueError(
            f"{folder} was made with other settings ({found}, now {settings}); delete it and what was made from it, "
            "or choose another --work folder"
        )
    return True


def mark(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings a folder is made with."""
    write_whole(folder / "settings.json", json.dumps(settings))


def run_stage(work: Path, name: str, settings: dict[str, Any], make: Callable[[Path], object], say: Say) -> None:
    """Make one stage's folder unless it is there already."""
    busy = f"stage {name!r} is being built in {work} by another process; wait for it or stop it"
    with locked(work / f".{name}.lock", busy):
        if check_stage(work / name, settings):
            say(f"{name}: already done")
            return
        say(f"{name}: started")
        with finished_folder(work / f"{name}.new") as temporary:
            make(temporary)
            mark(temporary, settings)
        (work / f"{name}.new").rename(work / name)
        say(f"{name}: done")


def build_data(data: Path, work: Path, settings: BuildSettings, say: Say) -> None:
    """Prepared texts, tokenizer and token arrays."""
    from ultrafuser.zoo.prepare import prepare
    from ultrafuser.zoo.tokens import make_tokenizer, tokenise_domain, tokenise_raw

    common = {"seed": settings.seed, "sizes": asdict(settings.sizes)}
    run_stage(work, "prepared", common, lambda out: prepare(data, out / "texts", settings.sizes, settings.seed), say)
    texts, tokenizer = work / "prepared" / "texts", work / "tokenizer" / "model"
    words = {"vocabulary": settings.shape.vocabulary, "characters": settings.tokenizer_characters}
    run_stage(work, "tokenizer", words, lambda out: make_tokenizer(texts, out / "model", *words.values()), say)
    raw = {"length": settings.raw_row, "budget": settings.raw_tokens, "validation": settings.raw_validation_tokens}
    run_stage(work, "tokens-base", raw, lambda out: tokenise_raw(texts, tokenizer, out / "arrays", *raw.values()), say)
    for domain in SPECIALISTS:
        length = {"max_length": settings.max_length}

        def make(out: Path, domain: str = domain) -> None:
            tokenise_domain(texts, tokenizer, out / "arrays", domain, settings.max_length)

        run_stage(work, f"tokens-{domain}", length, make, say)


def build_model(work: Path, name: str, settings: BuildSettings, threads: int, say: Say) -> None:
    """Train the base, or a specialist from the base, and save its best weights in float32 with the training record."""
    import torch

    from ultrafuser.zoo.train import new_model, open_model, train

    torch.set_num_threads(threads)
    training = settings.training(name)
    stage = {"shape": asdict(settings.shape), "training": asdict(training)}
    checkpoints = work / f"{name}.checkpoints"

    def make(out: Path) -> None:
        if not check_stage(checkpoints, stage):
            checkpoints.mkdir()
            mark(checkpoints, stage)
        model = new_model(settings.shape, training.seed) if name == BASE else open_model(work / BASE / "model")
        record = train(name, model, work / f"tokens-{name}" / "arrays", checkpoints, training, say)
        model.save_pretrained(out / "model")
        write_whole(out / "training.json", json.dumps(record, indent=2) + "\n")

    run_stage(work, f"{name}", stage, make, say)
    shutil.rmtree(checkpoints, ignore_errors=True)


def build_specialist(work: Path, name: str, settings: BuildSettings, threads: int) -> None:
    """One specialist, in a process of its own."""
    build_model(work, name, settings, threads, say_line)


def build(
    data_dir: str | Path,
    work_dir: str | Path = "runs/zoo",
    out_dir: str | Path | None = None,
    *,
    settings: BuildSettings | None = None,
    jobs: int = 2,
    threads: int = 1,
    say: Say = say_line,
) -> dict[str, Any]:
    """Build base and specialists from a data folder and publish them; returns the summary that zoo.json holds.

    `data_dir` holds raw/, train/ and bench/ (read only to remove overlap). `out_dir` defaults to the package's models.
    `jobs` specialists train at a time, each on `threads` threads. ValueError for missing data or a work folder made
    with other settings.
    """
    from ultrafuser.zoo.publish import publish

    data, work = Path(data_dir), Path(work_dir)
    settings = settings or BuildSettings()
    if not data.is_dir():
        raise ValueError(f"data folder {data} does not exist; give the folder that holds raw/, train/ and bench/")
    build_data(data, work, settings, say)
    build_model(work, BASE, settings, max(threads, jobs), say)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=max(jobs, 1), mp_context=context) as pool:
        runs = [pool.submit(build_specialist, work, name, settings, threads) for name in SPECIALISTS]
        for run in runs:
            run.result()
    return publish(work, Path(out_dir) if out_dir else MODELS, settings, say)
