"""The output folder: may it be written, does it hold something that would be lost, and does the result fit?"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ultrafuser.preflight.facts import Facts
from ultrafuser.preflight.findings import Level, Report
from ultrafuser.preflight.memory import disk_needed, gib
from ultrafuser.recipe import Recipe

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def check_output(
    recipe: Recipe, facts: Sequence[Facts], folders: dict[str, Path], report: Report, *, overwrite: bool = False
) -> None:
    """Notes what is wrong with the output folder and the disk it lies on. `folders`: where the specialists lie."""
    output = Path(recipe.output)
    parent = _existing(output)
    before = len(report.errors)
    if output.exists() and not output.is_dir():
        report.add("error", "output", f"{output} is a file", "name a folder")
    for name, folder in folders.items():
        if output.exists() and folder.exists() and output.resolve() in (folder.resolve(), *folder.resolve().parents):
            what = "is" if output.resolve() == folder.resolve() else "holds"
            report.add("error", "output", f"{output} {what} the folder of the specialist {name}", "name another folder")
    if len(report.errors) == before and output.is_dir():
        _check_contents(output, overwrite, report)
    if not os.access(parent, os.W_OK):
        report.add("error", "output", f"{parent} cannot be written to", "name another folder")
    elif facts and all(one.parameters is not None for one in facts):
        _check_disk(recipe, facts, parent, report)
    if len(report.errors) == before:
        report.add("ok", "output", f"{output} can be written")


def _existing(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path if path.is_dir() else path.parent


def _check_contents(output: Path, overwrite: bool, report: Report) -> None:
    kind = held_model(output)
    if kind is not None and not overwrite:
        report.add(
            "error",
            "output",
            f"{output} already holds {kind}",
            "name another folder, or pass --overwrite to replace it",
        )
    elif kind is not None:
        report.add("warning", "output", f"{output} holds {kind}, which will be replaced")


def held_model(folder: Path) -> str | None:
    """What kind of model a folder holds, in words, or None."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict) and config.get("model_type") == "ultrafuser":
        training = config.get("gate_training")
        trained = isinstance(training, dict) and training.get("trained")
        return "a trained fused model" if trained else "a fused model with an untrained gate"
    if config is not None or any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        return "a model"
    return None


def _check_disk(recipe: Recipe, facts: Sequence[Facts], parent: Path, report: Report) -> None:
    need = disk_needed(recipe, facts)
    free = shutil.disk_usage(parent).free
    report.memory["disk"] = {**need, "free_bytes": free}
    what = f"needs {gib(need['model'])} of disk for the model and {gib(need['checkpoints'])} for checkpoints"
    if sum(need.values()) > free:
        level: Level = "error" if need["model"] > free else "warning"
        report.add(
            level, "output", f"{what}, {parent} has {gib(free)} free", "free some, or name a folder on another disk"
        )
    else:
        report.add("ok", "output", f"{what}; {gib(free)} are free")
