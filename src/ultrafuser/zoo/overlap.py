"""The word 13-grams of a folder of benchmarks, so that nothing that shares one with them is trained on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultrafuser.data.decontamination import OverlapIndex
from ultrafuser.zoo.sources import records


def strings(value: Any) -> Iterator[str]:
    """Every string inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from strings(child)


def benchmark_index(folder: Path) -> OverlapIndex:
    """Index of every string in the JSON Lines files of a folder; ValueError when it holds none.

    The benchmarks are compared with, never trained on.
    """
    files = sorted(folder.glob("*.jsonl*"))
    if not files:
        raise ValueError(f"{folder} holds no .jsonl file; put the benchmarks to keep clear of there")
    return OverlapIndex(text for file in files for record in records(file) for text in strings(record))
