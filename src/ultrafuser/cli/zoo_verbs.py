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

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="base, text, code, math or dna.")]


def register(app: typer.Typer) -> None:
    """Add the group of verbs to the command line."""
    group = typer.Typer(help="The small specialists that come with the package.", no_args_is_help=False)
    group.command("list")(list_models)
    group.command("path")(show_path)
    group.command("copy")(copy)
    group.command("build")(build)
    group.command("draw")(draw)
    group.command("extend")(extend)
    app.add_typer(group, name="zoo")


def list_models(json_path: JsonOption = None) -> None:
    """List the shipped models with their held-out loss in each domain."""
    from ultrafuser import zoo

    summary = zoo.summary()
    rows = [_row(name, summary) for name in (zoo.BASE, *zoo.SPECIALISTS)]
    extras = [_extra(name) for name in zoo.EXTRAS]
    console = human_console(json_path)
    console.print(_table(rows, summary["loss_unit"]))
    for extra in extras:
        console.print(_table(extra["losses"], extra["loss_unit"]))
    write_json(json_path, {"loss_unit": summary["loss_unit"], "models": rows, "extras": extras})


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


def draw(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A domain whose data a program draws: dna.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    train: Annotated[int, typer.Option("--train", metavar="N", min=0, help="Conversations to train on.")] = 2000,
    validation: Annotated[int, typer.Option("--validation", metavar="N", min=0, help="To choose on.")] = 200,
    heldout: Annotated[int, typer.Option("--heldout", metavar="N", min=0, help="For the final figures.")] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed draws other conversations.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Draw conversations of a further domain into DIR: train, validation and heldout.jsonl; nothing occurs twice."""
    from ultrafuser.zoo.extra import draw_files

    counts = {"heldout": heldout, "validation": validation, "train": train}
    files = draw_files(name, folder, counts, seed)
    for split, file in files.items():
        human_console(json_path).print(f"{counts[split]} {split}: {file}", markup=False, soft_wrap=True)
    write_json(json_path, {"files": {split: str(file) for split, file in files.items()}, "counts": counts})


def extend(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A domain whose data a program draws: dna.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where to publish; left out: the package.")
    ] = None,
    work: Annotated[
        Path,
        typer.Option("--work", metavar="DIR", help="Folder of unfinished work; a second run goes on there."),
    ] = Path("runs/zoo-extra"),
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Threads.")] = 1,
    json_path: JsonOption = None,
) -> None:
    """Train a further specialist from the shipped base, as zoo:dna was: the others stay as they are. Half an hour."""
    from ultrafuser.zoo.extra import build_extra

    out = human_console(json_path)
    summary = build_extra(
        name, work, output, threads=threads, say=lambda text: out.print(text, markup=False, soft_wrap=True)
    )
    write_json(json_path, summary)


def _extra(name: str) -> dict[str, Any]:
    """A further specialist, and what all models lose on its domain and on the sample's."""
    from ultrafuser import zoo

    summary = zoo.extra_summary(name)
    losses = [
        {"name": model, "source": f"zoo:{model}", "parameters": summary["parameters"], "loss": loss}
        for model, loss in summary["loss"].items()
    ]
    return {
        "name": name,
        "source": f"zoo:{name}",
        "path": str(zoo.path(name)),
        "parameters": summary["parameters"],
        "loss_unit": summary["loss_unit"],
        "losses": losses,
    }


def _row(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    from ultrafuser import zoo

    return {
        "name": name,
        "source": f"zoo:{name}",
        "path": str(zoo.path(name)),
        "parameters": summary["parameters"],
        "loss": summary["loss"][name],
    }


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
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
