"""Files that appear whole or not at all, JSON that every reader can open, and locks that end with their process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["cache_root", "finite", "locked", "write_json", "write_whole"]


def cache_root() -> Path:
    """The folder for what can be made again: ULTRAFUSER_CACHE, or ultrafuser under XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("ULTRAFUSER_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ultrafuser"
    return base.expanduser().absolute()


def write_whole(file: Path, content: str | bytes) -> None:
    """Write to a temporary name, bring it to the disk, then rename; folders above are made. Text becomes UTF-8.

    Half of a surrogate pair, which models can write, becomes an escape. What is no ordinary file (/dev/null, a pipe) is
    written to, not replaced. Raises ValueError where `file` is a folder.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name a file to write")
    raw = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    if file.exists() and not file.is_file():
        file.write_bytes(raw)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    try:
        with temporary.open("wb") as opened:
            opened.write(raw)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN and infinities become null."""
    write_whole(file, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON does not have, and with texts for keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value


@contextmanager
def locked(file: Path, taken: str) -> Iterator[None]:
    """Holds a lock on `file`; the system lifts it when this process ends, however it does.

    Raises ValueError with the text `taken` where another process holds it. Windows has no such lock: nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(taken) from None
        yield
