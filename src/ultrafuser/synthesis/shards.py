"""Rows into files of at most so many rows each, one row after the other, as JSON Lines or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

__all__ = ["FORMATS", "Shards"]

ROW_GROUP = 1000  # rows of a Parquet file that lie in memory together
FEATURES: list[dict[str, Any]] = [  # of a row, as a data card of the Hub declares them
    {"name": "id", "dtype": "string"},
    {"name": "category", "dtype": "string"},
    {"name": "family", "dtype": "string"},
    {"name": "messages", "list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]},
    {
        "name": "meta",
        "struct": [
            {"name": "made_by", "dtype": "string"},
            {"name": "sub_topic", "dtype": "string"},
            {"name": "lineage", "list": "string"},
        ],
    },
]


class _File(Protocol):
    def write(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class _Lines:
    def __init__(self, file: Path) -> None:
        self._opened: IO[str] = file.open("w", encoding="utf-8", newline="\n")

    def write(self, row: Mapping[str, Any]) -> None:
        self._opened.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._opened.close()


class _Parquet:
    def __init__(self, file: Path) -> None:
        from pyarrow import parquet  # type: ignore[import-untyped]

        self._schema = _schema()
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        from pyarrow import Table

        self._writer.write_table(Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def _schema() -> Any:
    import pyarrow as pa

    text = pa.string()
    message = pa.struct([("role", text), ("content", text)])
    meta = pa.struct([("made_by", text), ("sub_topic", text), ("lineage", pa.list_(text))])
    return pa.schema(
        [("id", text), ("category", text), ("family", text), ("messages", pa.list_(message)), ("meta", meta)]
    )


FORMATS: dict[str, Callable[[Path], _File]] = {"jsonl": _Lines, "parquet": _Parquet}


class Shards:
    """The files of one split in a folder: 00000.jsonl, 00001.jsonl, ..., each of at most `size` rows."""

    def __init__(self, folder: Path, form: str, size: int) -> None:
        self.folder, self.form, self.size = folder, form, size
        self.rows = self.files = 0
        self._open: _File | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row, in a new file where the last one is full."""
        if self.rows % self.size == 0:
            self.close()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open = FORMATS[self.form](self.folder / f"{self.files:05d}.{self.form}")
            self.files += 1
        assert self._open is not None
        self._open.write(row)
        self.rows += 1

    def close(self) -> None:
        """End the last file."""
        if self._open is not None:
            self._open.close()
            self._open = None
