"""Reading headers of safetensors files: names, shapes and formats of the weights, without the weights.

Format: 8 bytes little-endian length, then that much JSON, then the bytes of the tensors. A file cut
short by a broken download is found by comparing the offsets in the header with the size of the file.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors library
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, Tensor]:
    """Tensors of one file. Raises ValueError for a file that is torn, cut short or not safetensors at all."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= MAX_HEADER:
            raise ValueError(f"{file.name} is not a safetensors file ({_what_it_is(start, size)})")
        if 8 + length > size:
            raise ValueError(
                f"{file.name} is cut short: its header alone takes {8 + length} bytes, the file has {size}"
            )
        raw = stream.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        tensors = {name: Tensor(e["dtype"], tuple(map(int, e["shape"]))) for name, e in entries.items()}
        spans = sorted((int(e["data_offsets"][0]), int(e["data_offsets"][1]), name) for name, e in entries.items())
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise ValueError(f"{file.name} is corrupt: its header cannot be read") from None
    _check_spans(file.name, tensors, spans, size - 8 - length)
    return tensors


def _what_it_is(start: bytes, size: int) -> str:
    if size == 0:
        return "it is empty"
    if start.startswith(b"version "):
        return "it is a Git LFS pointer: fetch the real file with `git lfs pull`"
    if start.startswith(b"PK") or start.startswith(b"\x80"):
        return "it looks like a pickled PyTorch file"
    return "its first bytes are not a header length"


def _check_spans(name: str, tensors: dict[str, Tensor], spans: list[tuple[int, int, str]], available: int) -> None:
    end = 0
    for first, last, tensor in spans:
        if first != end or last < first:
            raise ValueError(f"{name} is corrupt: the bytes of {tensor} do not follow those of the tensor before it")
        width = BYTES.get(tensors[tensor].dtype)
        if width is not None and last - first != width * tensors[tensor].size:
            raise ValueError(f"{name} is corrupt: {tensor} has {last - first} bytes, its shape needs another number")
        end = last
    if end > available:
        raise ValueError(f"{name} is cut short: {end - available} of {end} bytes of weights are missing")
    if end < available:
        raise ValueError(f"{name} is corrupt: {available - end} bytes too many")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Tensors of a model folder, sharded or not.

    Raises FileNotFoundError where there is no safetensors file, ValueError for missing shards and corrupt files.
    """
    index = folder / INDEX
    if index.is_file():
        return _read_shards(folder, index)
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    raise FileNotFoundError(f"{folder} has neither {SINGLE} nor {INDEX}")


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{INDEX} is corrupt: it has no readable weight_map") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:5])}")
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_header(folder / name)
    lost = [name for name in places if name not in tensors]
    if lost:
        raise ValueError(f"{len(lost)} tensors named in {INDEX} are in none of its files, the first {lost[0]}")
    return tensors


def main_dtype(tensors: Iterable[Tensor]) -> str:
    """The number format that holds most of the elements, in PyTorch's words."""
    elements: Counter[str] = Counter()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.size
    most = elements.most_common(1)[0][0] if elements else "unknown"
    return DTYPE_NAMES.get(most, most.lower())
