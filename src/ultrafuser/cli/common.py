"""What every verb shares: the consoles, `--json`, names that stand for shipped files, opening a fused model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from ultrafuser.files import finite, write_whole
from ultrafuser.zoo import resolve_data, resolve_source

__all__ = [
    "DeviceOption",
    "DtypeOption",
    "JsonOption",
    "ModelArgument",
    "QuantiseOption",
    "RevisionOption",
    "SpecialistPathOption",
    "console",
    "from_options",
    "human_console",
    "resolve_data",
    "resolve_source",
    "say_error",
    "stderr",
    "write_json",
]

Part = TypeVar("Part")

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
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", metavar="TYPE", help="float32, bfloat16, float16; left out: as stored."),
]
QuantiseOption = Annotated[
    str | None,
    typer.Option("--quantise", metavar="KIND", help="Keep the specialists' weights as int8 or int4."),
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit: makes MODEL a Hub id.")
]
SpecialistPathOption = Annotated[
    list[str] | None,
    typer.Option("--specialist-path", metavar="NAME=FOLDER", help="Where a gate-only model finds a specialist."),
]


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
    text = json.dumps(finite(data), indent=2, ensure_ascii=False, default=_plain) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_whole(Path(path), text)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and torch numbers and arrays
        return finite(value.tolist())
    return str(value)


def from_options(kind: type[Part], options: Mapping[str, str], **fields: Any) -> Part:
    """A part of a recipe from what a verb was given; `options` are fields whose option has another name than --field.

    Raises ValueError that names the options at fault.
    """
    from pydantic import ValidationError

    from ultrafuser.recipe import RecipeError

    try:
        return kind(**fields)
    except ValidationError as error:
        problems = RecipeError.from_validation(error).problems
        named = (options.get(p.field, "--" + p.field.replace("_", "-")) + f": {p.message}" for p in problems)
        raise ValueError("; ".join(named)) from None
