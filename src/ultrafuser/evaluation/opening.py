"""A run's folder: what run.json says, whether a run that lies there may go on, what is removed to start anew."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ultrafuser.evaluation.plan import Task
from ultrafuser.evaluation.record import (
    FORMAT,
    LOCK_FILE,
    REPORT_FILE,
    RUN_FILE,
    SUMMARY_FILE,
    entries_file,
    journal_file,
    read_settings,
    read_summary,
)
from ultrafuser.evaluation.subject import Subject
from ultrafuser.evaluation.tools import Tools
from ultrafuser.files import write_json

__all__ = ["open_run", "refuse_foreign", "run_settings"]

PACKAGES = ("ultrafuser", "torch", "transformers", "math-verify", "openai", "scipy")
PLACE = ("path", "files", "from", "revision")  # of a benchmark's data: "sha256" says whether it is the same
WORDS = ("title", "domain", "reference", "licence")  # nothing that is asked depends on these


def run_settings(subject: Subject, tasks: Sequence[Task], tools: Tools, command: Sequence[str]) -> dict[str, Any]:
    """What run.json says of a new run with these benchmarks; "calls" has one row per call that worked on the run."""
    call = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "benchmarks": [task.benchmark.name for task in tasks],
        "batch_size": tasks[0].options.batch_size,
        "versions": _versions(),
    }
    settings = {
        "format": FORMAT,
        "model": subject.name,
        "subject": subject.describe(),
        "benchmarks": {task.benchmark.name: task.as_dict(tools) for task in tasks},
        "calls": [call],
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))  # as it reads back, so that the two can be compared
    return plain


def refuse_foreign(folder: Path) -> None:
    """Raise ValueError where the folder holds something that is no run."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {folder} is a file; name a folder")
    if folder.is_dir() and not (folder / RUN_FILE).is_file():
        names = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK_FILE, f".{RUN_FILE}.part"))
        if names:
            raise ValueError(
                f"--output: {folder} holds files ({names[0]}), but no evaluation; name a new or empty folder"
            )


def open_run(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Write run.json: of a new run, or of the one that lies there, with the benchmarks and the call that join it.

    Raises ValueError where that one has other settings; `overwrite` removes it.
    """
    file = folder / RUN_FILE
    if overwrite and file.is_file():
        _clear(folder, settings["benchmarks"])
        write_json(file, settings)
        return
    if not file.is_file():
        write_json(file, settings)
        return
    old = read_settings(folder)
    changed = _changes(old, settings)
    if changed:
        raise ValueError(
            f"--output: {folder} holds a run with other settings: {'; '.join(changed[:4])}. Undo the change to go on "
            "with it, give --overwrite to start it anew, or name another --output"
        )
    finished = read_summary(folder)
    if any(name not in finished for name in settings["benchmarks"]):
        calls = [*old["calls"], *settings["calls"]]
        write_json(file, old | {"benchmarks": old["benchmarks"] | settings["benchmarks"], "calls": calls})


def _clear(folder: Path, names: Iterable[str]) -> None:
    """Remove a run's files and nothing else; run.json stays, so that a removal cut short can be repeated."""
    try:
        names = {*names, *read_settings(folder)["benchmarks"]}
    except ValueError:  # unreadable, or of another version: what it held cannot be known
        names = set(names)
    for name in (SUMMARY_FILE, REPORT_FILE):
        (folder / name).unlink(missing_ok=True)
    for name in names:
        entries_file(folder, name).unlink(missing_ok=True)
        journal_file(folder, name).unlink(missing_ok=True)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the run on the disk and the one asked for; where a file lies may change."""
    from ultrafuser.training.work import differences

    found = differences(_but_address(old.get("subject")), _but_address(new["subject"]), "subject")
    for name, about in new["benchmarks"].items():
        if name in old["benchmarks"]:
            found += differences(_essence(old["benchmarks"][name]), _essence(about), name)
    return found


def _essence(about: Mapping[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in about["data"].items() if key not in PLACE}
    rest = {key: _but_address(value) for key, value in about.items() if key not in WORDS}
    return rest | {"data": data}


def _but_address(about: Any) -> Any:
    """A description without the address: a model that moves to another port is the same model."""
    return {key: value for key, value in about.items() if key != "address"} if isinstance(about, Mapping) else about


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found | {"python": sys.version.split()[0], "platform": platform.platform()}
