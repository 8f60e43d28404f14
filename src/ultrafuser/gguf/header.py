"""The header of a GGUF file: what it says of itself, and the shapes of its tensors; read in a moment, no weights."""

import importlib.util
import math
import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".gguf"

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # bytes, unless general.alignment says otherwise


def is_gguf(source: str | os.PathLike) -> bool:
    """Whether `source` is written like a GGUF file: a path that ends in .gguf."""
    return os.fspath(source).endswith(SUFFIX)


@dataclass(frozen=True)
class Header:
    """What stands before the weights: metadata (of arrays only how long they are), shapes as PyTorch writes them."""

    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    needed: int  # bytes that the file must have for all its tensors to be there


def check_file(path: Path, field: str) -> dict[str, Any]:
    """The file's metadata, see `read_header`."""
    return read_header(path, field).metadata


def read_header(path: Path, field: str) -> Header:
    """The file's header.

    Raises ValueError where it is no GGUF file or is cut off, and where the package that unpacks it is missing.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"{field}: {str(path)!r} is a GGUF file, which needs the package gguf; pip install 'ultrafuser[gguf]'"
        )
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{field}: {str(path)!r} is no GGUF file (it does not start with GGUF)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                header = _Reader(view).header()
    except (struct.error, UnicodeDecodeError, IndexError, KeyError) as error:
        raise ValueError(f"{field}: {str(path)!r} is corrupt or cut off in its header; download it again") from error
    size = path.stat().st_size
    if size < header.needed:
        raise ValueError(f"{field}: {str(path)!r} is cut off ({size} bytes of {header.needed}); download it again")
    return header


def licence(path: Path) -> str | None:
    """The licence that the file names, or None."""
    found = check_file(path, "source").get("general.license")
    return str(found) if found else None


def tensor_names(path: Path, layers: Iterable[str]) -> dict[str, str]:
    """What the file calls the weights of each layer, without .weight, by Transformers' name; those it knows."""
    import gguf

    metadata = check_file(path, "source")
    kind = metadata.get("general.architecture")
    known = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind), None)
    if known is None:
        return {}
    names = gguf.get_tensor_name_map(known, int(metadata.get(f"{kind}.block_count") or 0))
    return {layer: name for layer in layers if (name := names.get_name(layer)) is not None}


class _Reader:
    """Walks the header of a GGUF file (version 2 or 3, little-endian), see docs/gguf.md of ggml."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.at = 4

    def header(self) -> Header:
        """The whole header."""
        from gguf import GGML_QUANT_SIZES

        self._take("<I")  # version
        tensors, keys = self._take("<Q"), self._take("<Q")
        metadata = {}
        for _ in range(keys):
            key = self._string()
            metadata[key] = self._value(self._take("<I"))
        shapes, end = {}, 0
        for _ in range(tensors):
            name = self._string()
            shape = tuple(self._take("<Q") for _ in range(self._take("<I")))
            shapes[name] = shape[::-1]
            kind, offset = self._take("<I"), self._take("<Q")
            per_block, block_bytes = GGML_QUANT_SIZES.get(kind, (1, 0))
            end = max(end, offset + math.prod(shape) // per_block * block_bytes)
        alignment = int(metadata.get("general.alignment") or _ALIGNMENT)
        return Header(metadata, shapes, -(-self.at // alignment) * alignment + end)

    def _take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.view, self.at)
        self.at += struct.calcsize(form)
        return value

    def _string(self) -> str:
        length = self._take("<Q")
        raw = self.view[self.at : self.at + length]
        if len(raw) < length:
            raise IndexError("the file ends inside a text")
        self.at += length
        return raw.decode("utf-8")

    def _value(self, kind: int) -> Any:
        """One value; an array is stepped over and gives its length."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(_NUMBERS[kind])
        element, count = self._take("<I"), self._take("<Q")
        if element in _NUMBERS:
            self.at += count * struct.calcsize(_NUMBERS[element])
            return count
        for _ in range(count):
            if element == _STRING:
                length = self._take("<Q")
                self.at += length
            else:
                self._value(element)
        return count
