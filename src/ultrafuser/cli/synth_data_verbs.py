"""`synth export`: what has become of a run, as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ultrafuser.cli.common import JsonOption, human_console, resolve_source, write_json

__all__ = ["SpecArgument", "add_to"]

LINES = ".jsonl"

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec (YAML); `synth init` writes one.")]


def add_to(group: typer.Typer) -> None:
    """Add the verbs to the group `synth`."""
    group.command("export")(export)


def export(
    spec: SpecArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Left out: data in the output folder; X.jsonl = that one file."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="jsonl or parquet.")] = "jsonl",
    shard_rows: Annotated[int, typer.Option("--shard-rows", metavar="N", help="Rows of a file at most.")] = 50_000,
    validation: Annotated[
        float, typer.Option("--validation", metavar="SHARE", help="Share of every domain for validation.")
    ] = 0.0,
    heldout: Annotated[float, typer.Option("--heldout", metavar="SHARE", help="Share held out for final figures.")] = 0,
    apart: Annotated[
        str,
        typer.Option(
            "--apart", metavar="WHAT", help="What is in one split only: conversations, sub_topics or meta_topics."
        ),
    ] = "conversations",
    licence: Annotated[
        str | None, typer.Option("--licence", metavar="ID", help="Licence that the card names, such as cc-by-4.0.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="MODEL", help="Count tokens by this folder's tokenizer; zoo:base works."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Write the finished conversations with their data card, for `datasets` and for `data:` of a recipe."""
    from ultrafuser.synthesis import Journal, load_spec, open_domains
    from ultrafuser.synthesis.export import Options, check_folder, export_dataset, export_jsonl
    from ultrafuser.synthesis.splits import Shares

    loaded = load_spec(spec)
    shares = Shares(validation, heldout, apart, loaded.seed)
    options = Options(form, shard_rows, shares, licence, None if tokenizer is None else resolve_source(tokenizer))
    place = output if output is not None else loaded.output_folder / "data"
    with Journal(loaded.output_folder, create=False) as journal:
        if place.suffix == LINES:
            if options != Options(shares=Shares(seed=loaded.seed)):
                raise ValueError(f"--output: {place} is one file, which takes no further options; name a folder")
            counts = dict(export_jsonl(journal, open_domains(loaded), place))
        else:
            check_folder(place)
            made = export_dataset(journal, loaded, open_domains(loaded), place, options)
            counts = {one.domain: one.conversations for one in made}
    told = ", ".join(f"{count} {domain}" for domain, count in counts.items())
    human_console(json_path).print(f"wrote {place}: {told}", markup=False, soft_wrap=True)
    write_json(json_path, {"output": str(place), "conversations": counts})
