"""A hash of a model folder's weights that does not depend on how they are split into files."""

import hashlib
import json
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ultrafuser.files import cache_root, write_whole

LONG = 1 << 30  # bytes; reading more than that is announced


def weight_files(folder: str | os.PathLike) -> list[Path]:
    """The safetensors files of a model folder or, where there are none, its .bin files, by name; a GGUF file itself.

    Where an index lists the shards, exactly those. Raises ValueError where a listed shard is missing.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        listed = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in listed:
            if not (folder / name).is_file():
                raise ValueError(
                    f"{str(folder)!r}: shard {name!r} listed in {index.name} is missing; download it again"
                )
        return [folder / name for name in listed]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def content_hash(folder: str | os.PathLike) -> str:
    """SHA-256 over name, format, shape and bytes of every tensor in order of name; over the files for .bin and .gguf.

    The same model saved in one file or in shards has one hash. Raises ValueError where the folder holds no weights.
    """
    files = weight_files(folder)
    if not files:
        raise ValueError(f"folder {str(folder)!r} holds no weights to hash (*.safetensors or pytorch_model*.bin)")
    digest = hashlib.sha256()
    if files[0].suffix != ".safetensors":
        for path in files:
            with path.open("rb") as file:
                for block in iter(lambda: file.read(1 << 22), b""):
                    digest.update(block)
        return digest.hexdigest()
    entries = sorted((name, path, entry) for path in files for name, entry in _header(path).items())
    for name, path, entry in entries:
        start, end = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"], end - start]).encode())
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            base = 8 + int.from_bytes(view[:8], "little")
            with memoryview(view) as memory, memory[base + start : base + end] as piece:
                digest.update(piece)
    return digest.hexdigest()


def remembered_hash(folder: str | os.PathLike, say: Callable[[str], None] = lambda message: None) -> str:
    """`content_hash`, kept in the cache until path, size or time of a weight file changes; `say` is told of long work.

    Where the cache cannot be written, the hash is computed each time.
    """
    files = weight_files(folder)
    states = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    note = cache_root() / "hashes" / hashlib.sha256(os.fsencode(json.dumps(states))).hexdigest()[:32]
    try:
        found = note.read_text(encoding="ascii").strip()
        if len(found) == 64:
            return found
    except (OSError, ValueError):
        pass  # not computed yet, or torn
    size = sum(state[1] for state in states)
    if size > LONG:
        say(f"reading {size / 1e9:.1f} GB of {Path(folder).name} once for its hash")
    found = content_hash(folder)
    with suppress(OSError):
        write_whole(note, found)
    return found


def _header(path: Path) -> dict[str, dict]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, path.stat().st_size)))
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is not a readable safetensors file; download or save it again") from error
    header.pop("__metadata__", None)
    return header
