"""What happened in a run, as JSON lines and in TensorBoard: survives kills, forgets what a resumed run does again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultrafuser.files import write_whole

__all__ = ["History", "TensorBoard", "write_json"]

Entry = dict[str, Any]


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all; NaN stays NaN, so that a resumed run reads what was written."""
    write_whole(path, json.dumps(data, indent=2, ensure_ascii=False))


class History:
    """The entries of all stages so far; each has "stage" and "step". `path` None keeps them in memory only."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: list[Entry] = list(_read(path)) if path is not None else []

    def append(self, entry: Entry) -> None:
        """Add an entry, and a line to the file."""
        self.entries.append(entry)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def of(self, stage: str) -> list[Entry]:
        """The entries of one stage."""
        return [entry for entry in self.entries if entry["stage"] == stage]

    def forget(self, stages: list[str], stage: str, after: int) -> None:
        """Drop what comes after step `after` of `stage`, and all later stages (`stages` is their order)."""
        later = set(stages[stages.index(stage) + 1 :])
        kept = [
            entry
            for entry in self.entries
            if entry["stage"] not in later and not (entry["stage"] == stage and entry["step"] > after)
        ]
        if self.path is not None and (len(kept) < len(self.entries) or not _whole(self.path)):
            write_whole(self.path, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in kept))
        self.entries = kept


def _read(path: Path) -> Iterator[Entry]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut short; always the last
            return


def _whole(path: Path) -> bool:
    return not path.is_file() or path.stat().st_size == 0 or path.read_bytes()[-1:] == b"\n"


class TensorBoard:
    """Scalars of a run, all stages on one axis of steps. A resumed run hides what it does again (purge_step)."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, entry: Entry) -> None:
        """Write every number of an entry, nested ones as a/b/c."""
        for name, value in _numbers(entry):
            if name != "step":
                self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()


def _numbers(entry: Entry, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
