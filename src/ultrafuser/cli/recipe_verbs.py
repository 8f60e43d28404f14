"""`ultrafuser init` and `ultrafuser check`: a recipe to start from, and what is wrong with one before work starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ultrafuser.cli.common import JsonOption, human_console, resolve_data, resolve_source, write_json
from ultrafuser.files import write_whole

if TYPE_CHECKING:
    from ultrafuser.preflight import Finding, Report

SIGNS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "ok": ("✓", "green")}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("init")(init)
    app.command("check")(check)


def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="The recipe to write.")] = Path("fuse.yaml"),
    preset: Annotated[
        str,
        typer.Option("--preset", metavar="NAME", help="demo, adapters, tokenizers, gpu or paper."),
    ] = "demo",
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of recipes and write nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json_path: JsonOption = None,
) -> None:
    """Write a commented recipe that runs as it is, and its JSON schema beside it for editors."""
    from ultrafuser.recipe import json_schema
    from ultrafuser.recipe.presets import SCHEMA_FILE
    from ultrafuser.recipe.presets import preset as preset_text

    if schema:
        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
        return
    if path.is_dir():
        path = path / "fuse.yaml"
    text = preset_text(preset, path.name)
    if path.exists() and not overwrite:
        raise ValueError(f"PATH: {path} exists already; name another file, or pass --overwrite to replace it")
    write_whole(path, text)
    schema_file = path.parent / SCHEMA_FILE
    written = _write_schema(schema_file, json_schema())
    show = human_console(json_path)
    show.print(f"{path} written", markup=False, soft_wrap=True)
    if not written:
        show.print(f"{schema_file} is some other file and was left alone: editors will not know the recipe's keys")
    show.print(f"next: ultrafuser check {path} && ultrafuser train {path}", markup=False, soft_wrap=True)
    write_json(json_path, {"recipe": str(path), "preset": preset, "schema": str(schema_file) if written else None})


def _write_schema(file: Path, schema: dict[str, Any]) -> bool:
    """Write the schema beside the recipe, unless a file of that name is something else."""
    if file.exists():
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if not isinstance(known, dict) or known.get("title") != schema["title"]:
            return False
        if known == schema:
            return True
    write_whole(file, json.dumps(schema, indent=2) + "\n")
    return True


def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe (YAML).")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="As train would be called: an output that holds a model is replaced.")
    ] = False,
    json_path: JsonOption = None,
) -> int:
    """Say what is wrong with a recipe, where, and how to mend it, before anything large is loaded.

    Reads configurations, tokenizers, safetensors headers and data files only. Exit status 0: ready to train (warnings
    allowed); 1: errors.
    """
    from ultrafuser.preflight import check_file

    show = human_console(json_path)
    report = check_file(
        recipe,
        resolve=resolve_source,
        resolve_data=resolve_data,
        overwrite=overwrite,
        say=lambda message: show.print(f"{message} ...", style="dim", markup=False, soft_wrap=True),
    )
    show_report(show, report)
    write_json(json_path, report.to_json())
    return 0 if report.ok else 1


def show_report(console: Console, report: Report) -> None:
    """Tables of facts, then every finding, the worst last, where the eye is."""
    for table in (_specialists(report), _adapters(report), _data(report), _memory(report)):
        if table is not None:
            console.print(table)
    for level in ("ok", "warning", "error"):
        for finding in report.findings:
            if finding.level == level:
                console.print(_line(finding), soft_wrap=True)
    errors, warnings = len(report.errors), len(report.warnings)
    if errors:
        console.print(
            Text(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}: mend the errors first", "bold red")
        )
    else:
        console.print(Text(f"ready to train ({_count(warnings, 'warning')})", "bold green"))


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _line(finding: Finding) -> Text:
    sign, colour = SIGNS[finding.level]
    line = Text.assemble((f"{sign} ", f"bold {colour}"))
    if finding.line:
        line.append(f"line {finding.line}: ")
    line.append(f"{finding.field}: ", "bold" if finding.level != "ok" else "")
    line.append(finding.message)
    if finding.fix:
        line.append(f"\n    {finding.fix}", "italic")
    return line


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    return table


def _specialists(report: Report) -> Table | None:
    if not report.specialists:
        return None
    table = _table("specialists", "name", "architecture", "parameters", "stored as", "hidden", "vocabulary")
    for name, one in report.specialists.items():
        parameters = "?" if one["parameters"] is None else f"{one['parameters']:,}"
        vocabulary = f"{one['vocabulary']:,} / {one['vocabulary_rows']:,}"
        table.add_row(name, one["architecture"], parameters, one["dtype"], f"{one['hidden_size']:,}", vocabulary)
    return table


def _adapters(report: Report) -> Table | None:
    adapters = {name: one for name, one in report.specialists.items() if one["adapter"] is not None}
    if not adapters:
        return None
    table = _table("adapters", "name", "base", "rank", "scaling", "layers", "on", "weights")
    for name, one in adapters.items():
        adapter = one["adapter"]
        scalings = " to ".join(f"{value:g}" for value in sorted({adapter["scalings"][0], adapter["scalings"][-1]}))
        rank, layers, weights = (f"{adapter[key]:,}" for key in ("rank", "layers", "parameters"))
        kinds = adapter["kinds"]
        on = ", ".join(kinds) if len(kinds) <= 4 else f"{len(kinds)} kinds"
        table.add_row(name, one["base"], rank, scalings, layers, on, weights)
    return table


def _data(report: Report) -> Table | None:
    if not report.data:
        return None
    table = _table("data", "domain", "train", "validation", "heldout", "tokens, mean", "longest", "too long")
    for name, one in report.data.items():
        counts = [_number(one.get(part)) for part in ("train", "validation", "heldout")]
        share = one.get("too_long_share")
        table.add_row(
            name,
            *counts,
            _number(one.get("tokens_mean")),
            _number(one.get("tokens_longest")),
            "" if share is None else f"{share:.1%}",
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _memory(report: Report) -> Table | None:
    from ultrafuser.preflight import gib

    stages = report.memory.get("stages")
    if not stages:
        return None
    device, free = report.memory["device"], report.memory["free_bytes"]
    has = "" if free is None else f", {gib(free)} free"
    table = _table(f"memory, estimated ({device}{has})", "stage", "weights", "optimiser", "activations", "together")
    for name, need in stages.items():
        table.add_row(name, *(gib(need[part]) for part in ("weights", "optimiser", "activations", "total")))
    answering = report.memory["answering"]
    weights, kept = answering["weights"], 1000 * answering["per_token"]
    table.add_row("answering, 1,000 tokens", gib(weights), "", gib(kept), gib(weights + kept))
    return table
