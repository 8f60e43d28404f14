"""Reads conversations from files, folders and Hub data sets, and says file, line and field of whatever is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ultrafuser.data.conversations import Conversation, conversation_from_record

__all__ = ["HUB_PREFIX", "SUFFIXES", "data_files", "file_records", "iter_conversations", "load_conversations"]

HUB_PREFIX = "hub:"
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


def load_conversations(
    paths: str | Path | Sequence[str | Path], category: str, *, limit: int | None = None
) -> list[Conversation]:
    """Every conversation of the named sources, in order, at most `limit` of them.

    A source is a file (JSONL, JSON, both also gzipped, or Parquet), a folder of such files (read in the order of their
    names), or a Hub data set, written "hub:owner/name", "hub:owner/name:split" or "hub:owner/name:configuration:split".
    Formats are recognised by their fields (table FORMATS). Raises ValueError naming source, line, field and fix; a
    source that holds no record is an error too.
    """
    sources = [paths] if isinstance(paths, str | Path) else list(paths)
    if not sources:
        raise ValueError(f"data.{category}: no file is named; list at least one")
    if limit is not None and limit < 1:
        raise ValueError(f"data.{category}.limit: {limit} is below 1; leave it out to read everything")
    found: list[Conversation] = []
    for source in sources:
        before = len(found)
        for one, _ in iter_conversations(source, category):
            if limit is not None and len(found) >= limit:
                return found
            found.append(one)
        if len(found) == before:
            raise ValueError(f"data.{category}: {source} holds no record")
    return found


def iter_conversations(
    source: str | Path, category: str, *, on_fault: Callable[[str], None] | None = None
) -> Iterator[tuple[Conversation, Mapping[str, Any]]]:
    """The conversations of one source and the records that they were read from, one after the other.

    JSON Lines, Parquet and Hub data sets are never whole in memory. A record that cannot be read raises ValueError, or
    is told to `on_fault` and left out.
    """
    for where, stem, record in _records(source, category):
        try:
            found = conversation_from_record(record, category, stem)
        except ValueError as error:
            if on_fault is None:
                raise ValueError(f"data.{category}: {where}: {error}") from None
            on_fault(f"{where}: {error}")
        else:
            yield found, record


def data_files(source: str | Path, category: str = "data") -> list[Path]:
    """The files of a local source: itself, or a folder's data files by name. Raises ValueError at once if missing."""
    path = Path(source).expanduser()
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise ValueError(f"data.{category}: {source} is not one of {', '.join(SUFFIXES)}")
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(SUFFIXES))
        if not files:
            raise ValueError(f"data.{category}: the folder {source} holds no file ending in {', '.join(SUFFIXES)}")
        return files
    raise ValueError(
        f"data.{category}: {source} does not exist (looked in {Path.cwd()}); "
        f"a Hub data set is written {HUB_PREFIX}owner/name"
    )


Located = tuple[str, str, Any]  # where it stands, an id when the record has none, the record


def _records(source: str | Path, category: str) -> Iterator[Located]:
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        yield from _hub_records(source, category)
        return
    for file in data_files(source, category):
        name = file.name[: file.name.index(".")] if not file.name.startswith(".") else file.name
        try:
            for place, record in file_records(file):
                yield f"{file}, {place}", f"{name}:{place.rpartition(' ')[2]}", record
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(f"data.{category}: {file} cannot be read: {error}") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"data.{category}: {file}, line {error.lineno}: not valid JSON: {error.msg}") from None


def file_records(file: Path) -> Iterable[tuple[str, Any]]:
    """The records of a local file with their places ("line 3"), as they are asked for; OSError, JSONDecodeError."""
    if file.name.endswith(".parquet"):
        return _parquet_records(file)
    return _json_records(file)


def _open(file: Path) -> IO[str]:
    if file.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8")
    return file.open(encoding="utf-8")


def _json_records(file: Path) -> Iterator[tuple[str, Any]]:
    """Records of JSON Lines, of one JSON list, or of the list under the key "data" of one JSON object."""
    if ".jsonl" not in file.name:
        with _open(file) as lines:
            text = lines.read()
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
        else:
            records = whole.get("data", [whole]) if isinstance(whole, dict) and "id" not in whole else whole
            records = records if isinstance(records, list) else [records]
            yield from ((f"record {index}", record) for index, record in enumerate(records, start=1))
            return
    with _open(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise json.JSONDecodeError(error.msg, "\n" * (number - 1) + error.doc, number - 1 + error.pos) from None


def _parquet_records(file: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", {key: value for key, value in record.items() if value is not None}
    except ArrowException as error:
        raise OSError(str(error)) from None


def _hub_records(source: str, category: str) -> Iterator[Located]:
    name, *rest = source.removeprefix(HUB_PREFIX).split(":")
    if name.count("/") != 1 or len(rest) > 2:
        raise ValueError(f"data.{category}: {source} must read hub:owner/name, optionally :configuration, then :split")
    import datasets

    configuration, split = (rest[0] if len(rest) == 2 else None), (rest[-1] if rest else "train")
    try:
        table = datasets.load_dataset(name, configuration, split=split)
    except Exception as error:  # the client raises many kinds, and none of them names our field
        raise ValueError(f"data.{category}: {source} cannot be loaded: {error}") from None
    for index, record in enumerate(table):
        kept = {key: value for key, value in record.items() if value is not None}
        yield f"{source}, record {index + 1}", f"{name}:{index}", kept
