"""Writing a folder so that a crash or a full disk leaves what was there before."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


def check_output(directory: str | os.PathLike, overwrite: bool = False, field: str = "output") -> None:
    """Raise ValueError where `directory` is a file, or holds a model already and `overwrite` is not set."""
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{field}: {str(folder)!r} is a file; give a folder")
    if overwrite or not folder.is_dir():
        return
    held = next((path.name for pattern in MODEL_FILES for path in sorted(folder.glob(pattern))), None)
    if held is not None:
        raise ValueError(
            f"{field}: folder {str(folder)!r} already holds a trained model ({held}); choose another folder, or ask "
            "for it to be replaced with --overwrite (overwrite=True)"
        )


@contextmanager
def staged(directory: str | os.PathLike, needed_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder beside `directory` whose files take their place there only once all are written.

    Raises OSError with errno ENOSPC, in plain words, where the disk is or gets full; earlier files stay as they were.
    """
    target = Path(os.path.abspath(directory))
    if target.is_file():
        raise ValueError(f"output: {str(target)!r} is a file; give a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Inside a folder that exists: it may be a file system of its own, and renaming works within one only.
    place = target if target.is_dir() else target.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise _full(target, needed_bytes, free)
    _sweep(place, target.name)
    temporary = place / f".{target.name}.{os.getpid()}.partial"
    try:
        temporary.mkdir()
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):  # safetensors writes files for their owner alone
            file.chmod(temporary.stat().st_mode & 0o666)
        _move_in(temporary, target)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
            shutil.rmtree(temporary, ignore_errors=True)
            raise _full(target, needed_bytes, shutil.disk_usage(place).free) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(place: Path, name: str) -> None:
    """Remove what a process that was killed while saving left behind."""
    for leftover in place.glob(f".{name}.*.partial"):
        number = leftover.name.removesuffix(".partial").rpartition(".")[2]
        try:
            os.kill(int(number), 0)
            alive = int(number) != os.getpid()
        except (ValueError, ProcessLookupError):
            alive = False
        except PermissionError:
            alive = True
        if not alive:
            shutil.rmtree(leftover, ignore_errors=True)


def _full(target: Path, needed: int, free: int) -> OSError:
    size = f"it needs about {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free" if needed else "the disk is full"
    return OSError(
        errno.ENOSPC,
        f"output: no space left to save {str(target)!r}: {size}; free some space or choose another folder (files that "
        "were there before are untouched)",
    )


def _move_in(temporary: Path, target: Path) -> None:
    """Move the finished files into place: the whole folder where nothing is there, else file by file, config last."""
    if not target.exists():
        os.rename(temporary, target)
        return
    new = sorted(path for path in temporary.iterdir())
    names = {path.name for path in new}
    for path in sorted(new, key=lambda path: path.name == "config.json"):
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        os.replace(path, target / path.name)
    for pattern in MODEL_FILES[1:]:
        for path in target.glob(pattern):
            if path.name not in names:  # shards of the model that was replaced
                path.unlink()
