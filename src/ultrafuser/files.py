"""Files that appear whole or not at all, JSON that every reader can open, and locks that end with their process."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["cache_root", "finite", "locked", "publish_folder", "write_json", "write_whole"]


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


def publish_folder(staged: Path, final: Path) -> None:
    """Bring every file of `staged` to the disk, then give it the name `final`; what was there before goes.

    Where the system can exchange two names at once (Linux), there is no moment without a whole folder called `final`;
    elsewhere there is a short one, in which the folder before lies beside it as .NAME.old.
    """
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
    if not final.exists():
        os.replace(staged, final)
        return
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if _exchange(staged, final):
        os.replace(staged, old)
    else:
        os.replace(final, old)
        os.replace(staged, final)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places in one step; False where the system or the file system cannot."""
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0
