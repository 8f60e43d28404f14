"""Where the converted copy of a GGUF file lies: an ordinary folder in the cache, found by the file's content.

    CACHE/<first 32 digits of the file's SHA-256>/   config.json, model.safetensors, tokenizer, README.md, origin.json
    CACHE/known/<digest of path, size and time>      the SHA-256 of a file seen before, so that it is not read again

CACHE is the folder that ULTRAFUSER_CACHE names, or ultrafuser under XDG_CACHE_HOME or ~/.cache, and in it `gguf`.
"""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from ultrafuser.files import cache_root, write_json, write_whole

FORMAT = 1  # of a copy; one of another format is made again
MARK = "origin.json"


def cache_folder() -> Path:
    """The folder of all converted copies; it need not exist."""
    return cache_root() / "gguf"


def known_copy(path: Path) -> Path | None:
    """The converted copy of a file that was seen before as it is now, told by path, size and time; nothing is read."""
    try:
        content = _note(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return whole_copy(content)


def find_copy(path: Path) -> Path | None:
    """The converted copy of a file, wherever it lay when it was converted: the file is read where it is not known."""
    known = known_copy(path)
    if known is not None or not cache_folder().is_dir():
        return known
    content = file_hash(path)
    found = whole_copy(content)
    if found is not None:
        note(path, content)
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of the file, computed once in a process."""
    stat = path.stat()
    return _hash(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _hash(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_place(content: str) -> Path:
    """Where the copy of the file with SHA-256 `content` lies, or would."""
    return cache_folder() / content[:32]


def whole_copy(content: str) -> Path | None:
    """The copy of the file with SHA-256 `content` where it is there, of this format, and every file has its size."""
    folder = copy_place(content)
    try:
        mark: dict[str, Any] = json.loads((folder / MARK).read_text(encoding="utf-8"))
        whole = mark["format"] == FORMAT and mark["sha256"] == content
        sizes = mark["bytes"].items()
        return folder if whole and all((folder / name).stat().st_size == size for name, size in sizes) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def mark_copy(folder: Path, content: str, file: str) -> None:
    """Write into a finished copy which file it was made from and how large its parts are."""
    sizes = {one.name: one.stat().st_size for one in sorted(folder.iterdir()) if one.name != MARK}
    write_json(folder / MARK, {"format": FORMAT, "sha256": content, "file": file, "bytes": sizes})


def note(path: Path, content: str) -> None:
    """Remember the SHA-256 of a file as it is now; nothing happens where the cache cannot be written."""
    try:
        write_whole(_note(path), content)
    except OSError:
        return


def _note(path: Path) -> Path:
    stat = path.stat()
    name = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    return cache_folder() / "known" / hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
