"""Decontamination: records that share words with a benchmark, as the paper filters its data (13-gram overlap).

A benchmark's own words are found as they stand, in other case, with other punctuation and inside of a longer text; a
paraphrase is not. Fields of fewer than 13 words have no 13-gram: those are looked for whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ultrafuser.data.decontamination import LENGTH, OverlapIndex, words
from ultrafuser.data.sources import data_files, file_records
from ultrafuser.recipe.paths import absolute_path
from ultrafuser.synthesis.filters.filter import ANSWERS, REQUESTS, Filter, FilterOptions, Verdicts, Work, text_of
from ultrafuser.synthesis.spec import Spec

__all__ = ["DECONTAMINATION", "Benchmarks", "Overlap"]

FEWEST = 3  # words of a field that is compared as a whole


class DecontaminationOptions(FilterOptions):
    """Options of decontamination."""

    files: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Benchmark files (JSONL, JSON, Parquet, also gzipped) or folders of them; paths start from the spec's folder."""
    fields: list[str] | None = None
    """Fields that are compared, at any depth; null: all that hold text."""
    length: Annotated[int, Field(ge=5, le=100)] = LENGTH
    """Words in a row that may not be shared."""
    shortest: Annotated[int, Field(ge=3, le=100)] = 8
    """Fields of at least so many words, and fewer than `length`, may not stand inside of a record; shorter ones may
    not be a whole request."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a text shares with a benchmark: the words, the file's name, the place of the item in it."""

    words: str
    file: str
    place: str


class Benchmarks:
    """The texts of benchmark files, to be looked for in others. Holds hashes and places, not the texts."""

    def __init__(
        self, files: Sequence[Path], fields: Sequence[str] | None = None, length: int = LENGTH, shortest: int = 8
    ) -> None:
        self._whole: dict[str, tuple[str, str]] = {}
        self._owners: dict[int, list[tuple[str, str]]] = {}
        texts: dict[int, list[str]] = {}
        for file in files:
            for place, text in _texts(file, fields):
                found = words(text)
                if len(found) < min(shortest, length):
                    if len(found) >= FEWEST:
                        self._whole.setdefault(" ".join(found), (file.name, place))
                    continue
                size = min(len(found), length)
                texts.setdefault(size, []).append(" ".join(found))
                self._owners.setdefault(size, []).append((file.name, place))
        self._indexes = {size: OverlapIndex(texts[size], size) for size in sorted(texts, reverse=True)}

    def find(self, text: str, *, whole: bool = False) -> Overlap | None:
        """The first overlap of a text, longest n-grams first. `whole` also compares it to short fields as a whole."""
        for size, index in self._indexes.items():
            found = index.find(text)
            if found is not None:
                return Overlap(found[0], *self._owners[size][found[1]])
        line = " ".join(words(text)) if whole and self._whole else ""
        return Overlap(line, *self._whole[line]) if line in self._whole else None


def _texts(file: Path, fields: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    try:
        for place, record in file_records(file):
            for text in _strings(record, fields, fields is None):
                yield place, text
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"files: {file} cannot be read: {error}") from None


def _strings(value: Any, fields: Sequence[str] | None, wanted: bool) -> Iterable[str]:
    if isinstance(value, str):
        return [value] if wanted else []
    if isinstance(value, Mapping):
        parts = [_strings(one, fields, wanted or (fields is not None and key in fields)) for key, one in value.items()]
    elif isinstance(value, list | tuple):
        parts = [_strings(one, fields, wanted) for one in value]
    else:
        return []
    return [text for part in parts for text in part]


@lru_cache(maxsize=1)
def _opened(
    files: tuple[Path, ...], stamps: tuple[int, ...], fields: tuple[str, ...] | None, length: int, shortest: int
) -> Benchmarks:
    """One set of files is read once for all steps; `stamps`, their times of change, tell it from an older one."""
    return Benchmarks(files, fields, length, shortest)


def _files(spec: Spec, options: DecontaminationOptions) -> tuple[Path, ...]:
    try:
        found = [file for name in options.files for file in data_files(absolute_path(name, spec.folder))]
    except ValueError as error:
        raise ValueError(f"files: {str(error).removeprefix('data.data: ')}") from None
    return tuple(dict.fromkeys(found))


def _judge(work: Work) -> Verdicts:
    options = work.options
    fields = None if options.fields is None else tuple(options.fields)
    files = _files(work.spec, options)
    stamps = tuple(file.stat().st_mtime_ns for file in files)
    benchmarks = _opened(files, stamps, fields, options.length, options.shortest)
    for record in work.records():
        found = benchmarks.find(text_of(record), whole=record.step in REQUESTS)
        if found is not None:
            yield record.id, f"shares words with a benchmark: {found.file}, {found.place}: {found.words}"


def _ready(spec: Spec, options: DecontaminationOptions) -> None:
    files = _files(spec, options)
    for file in files if options.fields is not None else ():
        if not any(True for _ in _texts(file, options.fields)):
            raise ValueError(f"fields: {file} has no text in {', '.join(options.fields or ())}; name its fields")


DECONTAMINATION = Filter(
    name="decontamination",
    summary="shares 13 words in a row with a benchmark",
    steps=(*REQUESTS, *ANSWERS),
    judge=_judge,
    options=DecontaminationOptions,
    ready=_ready,
    reads=_files,
)
