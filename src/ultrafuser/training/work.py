"""The working folder of a run: what a run is made of, which stages are done, which checkpoints are whole.

    work/run.json              fingerprint: stages, seed, data, weights that the run started from
    work/history.jsonl         losses, gate weights, validation
    work/heldout.json          losses of the specialists on the held-out data
    work/tensorboard/
    work/states/               the specialists' hidden states, where a stage learns from them
    work/1-gate/checkpoint-N/  everything to go on from step N; the two newest
    work/1-gate/best/          weights of the best validation loss, best.json
    work/1-gate/done.json      written last: what the stage gave, and which checkpoint holds its weights

Every file and folder appears under its name only when it is whole.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultrafuser import files
from ultrafuser.recipe import StageConfig
from ultrafuser.training.history import write_json

__all__ = [
    "BEST",
    "BEST_FILE",
    "KEEP",
    "STATES",
    "StageFolder",
    "checkpoints",
    "clear_when_full",
    "differences",
    "finish_run",
    "is_unfinished",
    "locked",
    "open_work",
    "publish_folder",
    "refuse_model",
    "staging_folder",
    "work_folder",
    "write_json",
]

TRAINER_STATE_NAME = "trainer_state.json"  # transformers.trainer's; named here so that this module stays light
BEST = "best"
BEST_FILE = "best.json"
KEEP = 2
WORK = "work"
STATES = "states"
RUN_FILE = "run.json"
HISTORY_FILE = "history.jsonl"
HELDOUT_FILE = "heldout.json"
LOCK_FILE = ".lock"
DONE_FILE = "done.json"
# A stage may be resumed with other values of these: they do not change what is learnt beyond rounding.
FREE = ("accumulation", "gradient_checkpointing", "save_every", "logging_steps")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STAGE = re.compile(r"\d+-.+")


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a stage, oldest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / TRAINER_STATE_NAME).is_file()
    ]
    return [path for _, path in sorted(found)]


def staging_folder(parent: Path, name: str) -> Path:
    """Where a folder is written before it gets its name."""
    return parent / f".{name}.part"


def publish_folder(staged: Path, final: Path) -> None:
    """Bring every file of `staged` to the disk, then rename it to `final`, replacing what is there."""
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
        os.replace(staged, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(staged, final)


@contextmanager
def clear_when_full(staged: Path) -> Iterator[None]:
    """Turns whatever a full disk makes of a half-written folder into one clear OSError, and removes the folder."""
    try:
        yield
    except Exception as error:  # torch and safetensors raise kinds of their own, some without a number
        free = shutil.disk_usage(staged.parent).free
        full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error) or free < 1 << 20
        shutil.rmtree(staged, ignore_errors=True)
        if not full:
            raise
        raise OSError(
            errno.ENOSPC,
            f"output: no space left for a checkpoint in {staged.parent}; free some, then run the same: it goes on "
            "from the last whole checkpoint",
        ) from error


class StageFolder:
    """One stage's folder."""

    def __init__(self, work: Path, place: int, stage: StageConfig) -> None:
        self.path = work / f"{place + 1}-{stage.name}"

    def done(self) -> dict[str, Any] | None:
        """What the stage gave, when it is done."""
        file = self.path / DONE_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint."""
        found = checkpoints(self.path)
        return found[-1] if found else None

    def step(self) -> int:
        """The step that the stage would go on from."""
        last = self.last_checkpoint()
        return int(last.name.rpartition("-")[2]) if last is not None else 0

    def best(self) -> dict[str, Any] | None:
        """Step and validation losses of the best evaluation so far."""
        file = self.path / BEST / BEST_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def finish(self, record: Mapping[str, Any], weights: str) -> None:
        """Mark the stage as done with the weights in the folder of that name; drop what is needed no longer."""
        write_json(self.path / DONE_FILE, {**record, "weights": weights})
        self.tidy()

    def tidy(self) -> None:
        """Drop optimiser states, other checkpoints and leftovers of a stage that is done."""
        record = self.done()
        if record is None:
            return
        for path in list(self.path.iterdir()):
            if path.name.startswith(".") or (_CHECKPOINT.fullmatch(path.name) and path.name != record["weights"]):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for path in (self.path / record["weights"]).iterdir():
            if path.suffix in (".pt", ".pth", ".bin"):
                path.unlink(missing_ok=True)


def work_folder(output: str | Path) -> Path:
    """Where checkpoints, history and TensorBoard of an output folder lie."""
    return Path(output) / WORK


def is_unfinished(output: str | Path) -> bool:
    """Whether a run into `output` was begun and its model has not been saved there: the same call goes on with it."""
    return (work_folder(output) / RUN_FILE).is_file() and not (Path(output) / "config.json").is_file()


def refuse_model(output: Path, overwrite: bool) -> None:
    """Raise ValueError when `output` holds a finished model that may not be replaced."""
    if (output / "config.json").is_file() and not overwrite:
        raise ValueError(
            f"output: {output} already holds a model; choose another folder or give --overwrite to replace it"
        )


def open_work(output: Path, fingerprint: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """The working folder of `output`, empty or of the same run.

    Raises ValueError when `output` holds a finished model or the working folder another run, unless `overwrite`. The
    same run is gone on with, `overwrite` or not, except with `resume=False`. Only files of an earlier run are removed.
    """
    refuse_model(output, overwrite)
    work = work_folder(output)
    file = work / RUN_FILE
    if file.is_file() and resume:
        changed = differences(json.loads(file.read_text(encoding="utf-8")), fingerprint)
        if not changed:
            return work
        if not overwrite:
            raise ValueError(
                f"output: {work} holds an unfinished run with other settings: {'; '.join(changed[:6])}. Undo the "
                "change to go on with it, give --overwrite to start anew, or choose another output"
            )
    file.unlink(missing_ok=True)  # first: what is left of a removal cut short is no run any more
    work.mkdir(parents=True, exist_ok=True)
    for path in _own(work):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(file, fingerprint)
    return work


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keeps other processes out of `output`/work; the system lifts the lock when this process ends, however it does.

    Raises ValueError where another run is at work there.
    """
    work = work_folder(output)
    busy = f"output: another run is at work in {work}; wait for it, stop it, or choose another output"
    with files.locked(work / LOCK_FILE, busy):
        yield


def finish_run(output: Path) -> None:
    """To be called when the trained model is saved: drops what only resuming needs, keeps history and best weights.

    A stage's best weights are kept where they are not the ones it handed on; so are a gate's, which are small.
    """
    work = work_folder(output)
    (work / RUN_FILE).unlink(missing_ok=True)
    shutil.rmtree(work / STATES, ignore_errors=True)
    for done in work.glob(f"*/{DONE_FILE}"):
        record = json.loads(done.read_text(encoding="utf-8"))
        best = done.parent / BEST
        if record["weights"] != BEST and record["best"] and record["best"]["step"] == record["steps"]:
            shutil.rmtree(best, ignore_errors=True)
        if record["train"] != "gate":
            shutil.rmtree(done.parent / record["weights"], ignore_errors=True)


def _own(work: Path) -> list[Path]:
    """What an earlier run left in a working folder."""
    names = (HISTORY_FILE, HELDOUT_FILE, "tensorboard")
    return [path for path in work.iterdir() if path.name in names or (path.is_dir() and _STAGE.fullmatch(path.name))]


def describe_stage(stage: StageConfig) -> dict[str, Any]:
    """The settings of a stage that decide what is learnt."""
    return {key: value for key, value in stage.model_dump().items() if key not in FREE}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What changed between two JSON values, as `stages[1].steps: 100 -> 200`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: Sequence[Any] = [*old, *(key for key in new if key not in old)]
        pairs: Iterator[tuple[str, Any, Any]] = (
            (f"{path}.{key}" if path else str(key), old.get(key), new.get(key)) for key in keys
        )
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = ((f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)))
    else:
        return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]
    return [found for name, a, b in pairs for found in differences(a, b, name)]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
