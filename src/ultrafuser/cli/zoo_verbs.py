"""`ultrafuser zoo`: the small specialists that come with the package."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ultrafuser.cli.common import JsonOption, human_console, write_json

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="base, text, code or math.")]


def register(app: typer.Typer) -> None:
    """Add the group of verbs to the command line."""
    group = typer.Typer(help="The small specialists that come with the package.", no_args_is_help=False)
    group.command("list")(list_models)
    group.command("path")(show_path)
    group.command("copy")(copy)
    group.command("build")(build)
    app.add_typer(group, name="zoo")


def list_models(json_path: JsonOption = None) -> None:
    """List the shipped models with their held-out loss in each domain."""
    from ultrafuser import zoo

    summary = zoo.summary()
    rows = [_row(name, summary) for name in zoo.names()]
    human_console(json_path).print(_table(rows, summary))
    write_json(json_path, {"loss_unit": summary["loss_unit"], "models": rows})


def show_path(name: NameArgument, json_path: JsonOption = None) -> None:
    """Print the folder of a shipped model, for other programs: `$(ultrafuser zoo path text)`."""
    from ultrafuser import zoo

    folder = zoo.path(name)
    human_console(json_path).print(str(folder), markup=False, soft_wrap=True)
    write_json(json_path, {"name": name, "path": str(folder)})


def copy(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    json_path: JsonOption = None,
) -> None:
    """Copy a shipped model into a folder of your own, to train it further or to publish it."""
    from ultrafuser import zoo

    source = zoo.path(name)
    if folder.exists():
        raise ValueError(f"DIR: {str(folder)!r} exists already; name a folder that does not")
    _copy_whole(source, folder)
    human_console(json_path).print(f"{name} copied to {folder}", markup=False, soft_wrap=True)
    write_json(json_path, {"name": name, "path": str(folder)})


def build(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that holds raw/, train/ and bench/.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where to publish; left out: the package.")
    ] = None,
    work: Annotated[
        Path,
        typer.Option("--work", metavar="DIR", help="Folder of unfinished work; a second run goes on there."),
    ] = Path("runs/zoo"),
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="Specialists trained at a time.")] = 2,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Threads of each.")] = 1,
    json_path: JsonOption = None,
) -> None:
    """Train all shipped models from scratch: tokenizer, base, three specialists. About two hours on two cores."""
    from ultrafuser.zoo.build import build as build_zoo

    out = human_console(json_path)

    def say(text: str) -> None:
        out.print(text, markup=False, soft_wrap=True)

    summary = build_zoo(data, work, output, jobs=jobs, threads=threads, say=say)
    write_json(json_path, summary)


def _row(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    from ultrafuser import zoo

    return {
        "name": name,
        "source": f"zoo:{name}",
        "path": str(zoo.path(name)),
        "parameters": summary["parameters"],
        "loss": summary["loss"][name],
    }


def _table(rows: list[dict[str, Any]], summary: dict[str, Any]) -> Table:
    table = Table(title=summary["loss_unit"], title_justify="left")
    domains = list(rows[0]["loss"])
    for heading in ("name", "parameters", *domains):
        table.add_column(heading, justify="left" if heading == "name" else "right")
    lowest = {domain: min(row["loss"][domain] for row in rows) for domain in domains}
    for row in rows:
        losses = [
            Text(f"{loss:.3f}", style="bold green" if loss == lowest[domain] else "")
            for domain, loss in row["loss"].items()
        ]
        table.add_row(row["source"], f"{row['parameters']:,}", *losses)
    return table


def _copy_whole(source: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        shutil.copytree(source, Path(temporary) / "model")
        os.rename(Path(temporary) / "model", folder)
