"""lm-eval tasks over files of a local folder, written out when they are wanted: nothing is fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ultrafuser.evaluation.data import SAMPLE, sample_folder

__all__ = ["write_tasks"]

TASKS = Path(__file__).parent / "tasks"
FILE = re.compile(r"DATA/(\w+)\.jsonl")  # in a task's YAML: FILE.jsonl or FILE.jsonl.gz of the data folder
CACHE = "CACHE"  # in a task's YAML: where `datasets` keeps what it makes of the file
NAME = re.compile(r"^task: (\w+)$", re.MULTILINE)


def write_tasks(data: str | Path, folder: str | Path) -> dict[str, Path]:
    """Write tasks for the benchmark files in `data` into `folder`; gives each task's name and data file.

    `data` is a folder, or "sample" for the items that come with the package.
    `folder` is for lm-eval's `--include_path` or `TaskManager(include_path=...)`; it must stay while they run. Files
    are FILE.jsonl or FILE.jsonl.gz as `ultrafuser eval --data` reads them; a task whose file is missing is left out.
    Raises ValueError where `data` is no folder or has none of the files.
    """
    data = sample_folder() if str(data) == SAMPLE else Path(data).expanduser().resolve()
    folder = Path(folder).resolve()
    if not data.is_dir():
        raise ValueError(f"data: {str(data)!r} {'is a file, not a folder' if data.exists() else 'does not exist'}")
    written: dict[str, Path] = {}
    missing: list[str] = []
    for template in sorted(TASKS.glob("*.yaml")):
        text = template.read_text(encoding="utf-8")
        stem, name = _only(FILE, text), _only(NAME, text)
        file = next((path for end in (".jsonl", ".jsonl.gz") if (path := data / f"{stem}{end}").is_file()), None)
        if file is None:
            missing.append(f"{stem}.jsonl")
            continue
        text = FILE.sub(lambda _, path=file: json.dumps(str(path)), text)  # type: ignore[misc]
        text = text.replace(CACHE, json.dumps(str(folder / "cache")))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / template.name).write_text(text, encoding="utf-8")
        written[name] = file
    if not written:
        raise ValueError(f"data: folder {str(data)!r} has none of {', '.join(dict.fromkeys(missing))}")
    return written


def _only(pattern: re.Pattern[str], text: str) -> str:
    (found,) = pattern.findall(text)
    return str(found)
