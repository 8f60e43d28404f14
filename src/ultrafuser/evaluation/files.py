"""Files that outlive a kill: JSON written whole or not at all, JSON Lines that grow line by line, a folder's lock."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["LOCK_FILE", "Log", "locked", "read_json", "read_lines", "write_json", "write_lines", "write_whole"]

LOCK_FILE = ".lock"


def write_whole(file: Path, content: bytes) -> None:
    """Write a temporary file, bring it to the disk, then rename it."""
    temporary = file.with_name(f".{file.name}.part")
    with temporary.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(temporary, file)


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN and infinities become null."""
    write_whole(file, _encoded(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"))


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, whole or not at all; NaN and infinities become null."""
    write_whole(file, b"".join(_line(row) for row in rows))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file where it holds anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); run the evaluation again with --overwrite") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds a {type(value).__name__}, not an object; run again with --overwrite")
    return value


def read_lines(file: Path, *, torn: bool) -> Iterator[tuple[int, Any]]:
    """Numbered values of a JSON Lines file, none where it does not exist.

    `torn` leaves out a last line that has no end, as a killed process leaves it. Raises ValueError for any other line
    that is not JSON.
    """
    if not file.is_file():
        return
    lines = file.read_bytes().split(b"\n")
    rest = lines.pop()
    if rest and not torn:
        raise ValueError(f"{file}, line {len(lines) + 1}: the line is cut off; run the same command to go on")
    for number, line in enumerate(lines, start=1):
        try:
            yield number, json.loads(line)
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{file}, line {number}: not valid JSON ({error}); remove the line, or run again with --overwrite"
            ) from None


class Log:
    """A JSON Lines file that grows: every `append` is on the disk when it returns.

    A last line that a killed process left without its end is cut off first.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("a+b")
        end = _whole_end(self._file.tell(), file)
        self._file.truncate(end)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add one line per row, in one write."""
        self._file.write(b"".join(_line(row) for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; the system lifts the lock when this process ends, however it does.

    Raises ValueError where another process is at work there.
    """
    try:
        import fcntl
    except ImportError:  # Windows: runs are not kept apart there
        yield
        return
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"--output: another evaluation is at work in {folder}; wait for it, stop it, or choose another output"
            ) from None
        yield


def _whole_end(size: int, file: Path) -> int:
    """Where the last whole line ends."""
    with file.open("rb") as opened:
        while size:
            start = max(0, size - (1 << 16))
            opened.seek(start)
            place = opened.read(size - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            size = start
    return 0


def _line(row: Mapping[str, Any]) -> bytes:
    return _encoded(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n")


def _encoded(text: str) -> bytes:
    """UTF-8; half of a surrogate pair, which models can write, becomes its JSON escape and so comes back as it was."""
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
