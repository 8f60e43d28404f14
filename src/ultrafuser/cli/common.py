"""What every verb shares: the consoles, `--json`, names that stand for shipped files, opening a fused model."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

__all__ = [
    "DeviceOption",
    "JsonOption",
    "ModelArgument",
    "RevisionOption",
    "SpecialistPathOption",
    "console",
    "human_console",
    "resolve_data",
    "resolve_source",
    "say_error",
    "stderr",
    "write_json",
    "write_text",
]

console = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def _check_json_path(path: str | None) -> str | None:
    """Refuse, before long work, a file that cannot be written."""
    if path is None or path == "-":
        return path
    file = Path(path).expanduser()
    parent = next(folder for folder in (file.absolute().parents) if folder.exists())
    if file.is_dir():
        raise ValueError(f"--json: {path!r} is a folder; name a file to write")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(
            f"--json: {path!r} cannot be written, because {str(parent)!r} is no folder that can be written to"
        )
    return str(file)


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=_check_json_path,
        help="Write what is shown as JSON too; - = standard output.",
    ),
]

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Folder of a fused model (any causal LM works), or a Hub id with --revision."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps; left out: the fastest."),
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit: makes MODEL a Hub id.")
]
SpecialistPathOption = Annotated[
    list[str] | None,
    typer.Option("--specialist-path", metavar="NAME=FOLDER", help="Where a gate-only model finds a specialist."),
]

ZOO_PREFIX = "zoo:"
SAMPLE_PREFIX = "zoo-sample:"


def human_console(json_path: str | None) -> Console:
    """Where a verb prints for a person: standard output, or standard error when `--json -` takes standard output."""
    return stderr if json_path == "-" else console


def say_error(message: str) -> None:
    """Print `error: message` in red on standard error."""
    text = Text.assemble(("error: ", "bold red"), (message, "red"))
    stderr.print(text, soft_wrap=True)


def write_json(path: str | Path | None, data: Any) -> None:
    """Write `data` as JSON to a file (temporary name, then rename), to standard output for "-", nowhere for None.

    NaN and infinities become null, so that every reader can open the file.
    """
    if path is None:
        return
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, default=_plain) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_text(Path(path), text)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and torch numbers and arrays
        return _finite(value.tolist())
    return str(value)


def resolve_source(source: str) -> str:
    """The folder of a shipped model for "zoo:text"; anything else (folder, Hub id) as it is."""
    if not source.startswith(ZOO_PREFIX):
        return source
    from ultrafuser import zoo

    return str(zoo.path(source.removeprefix(ZOO_PREFIX)))


def resolve_data(source: str) -> str:
    """The file of a shipped sample for "zoo-sample:text/train"; anything else (file, folder, Hub id) as it is."""
    if not source.startswith(SAMPLE_PREFIX):
        return source
    from ultrafuser import zoo

    return str(zoo.sample_path(source.removeprefix(SAMPLE_PREFIX)))
