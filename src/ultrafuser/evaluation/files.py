"""JSON Lines that grow line by line and outlive a kill, and reading of what a run wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ultrafuser.files import finite, write_whole

__all__ = ["Log", "read_json", "read_lines", "write_lines"]


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
    line = json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"
    return line.encode("utf-8", "backslashreplace")
