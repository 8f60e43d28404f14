"""`synth import`, `export` and `analyse`: other data into a run, and what has become of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ultrafuser.cli.common import JsonOption, human_console, resolve_data, resolve_source, write_json

__all__ = ["SpecArgument", "add_to"]

LINES = ".jsonl"

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec (YAML); `synth init` writes one.")]


def add_to(group: typer.Typer) -> None:
    """Add the verbs to the group `synth`."""
    group.command("import")(import_)
    group.command("export")(export)
    group.command("analyse")(analyse)


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


def import_(
    spec: SpecArgument,
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="alpaca, dolly, evol-instruct, mathinstruct, messages, sharegpt, ultrachat, or auto.",
        ),
    ],
    source: Annotated[str, typer.Argument(metavar="FILE", help="File or folder of data, or hub:OWNER/NAME.")],
    domain: Annotated[
        str | None, typer.Option("--domain", metavar="NAME", help="Domain of the spec; may be left out if it has one.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Take at most N.")] = None,
    skip_faulty: Annotated[
        bool, typer.Option("--skip-faulty", help="Leave out records that cannot be read, and count them.")
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Put the instructions of an existing data set into the pool: the next run expands and answers them too."""
    from dataclasses import asdict

    from ultrafuser.lookup import lookup
    from ultrafuser.synthesis import Journal, load_spec, open_domains
    from ultrafuser.synthesis.importing import import_instructions

    loaded = load_spec(spec)
    names = {one.name: one for one in open_domains(loaded)}
    if domain is None and len(names) > 1:
        raise ValueError(f"--domain: the spec has {', '.join(names)}; name the one that these instructions belong to")
    chosen = lookup(names, domain or next(iter(names)), "--domain").name
    with Journal(loaded.output_folder) as journal:
        done = import_instructions(journal, chosen, form, resolve_data(source), limit=limit, skip_faulty=skip_faulty)
    console = human_console(json_path)
    told = f"{done.added} instructions into {chosen}, {done.known} were there already, {done.faulty} faulty left out"
    console.print(told, markup=False, soft_wrap=True)
    for fault in done.faults:
        console.print(f"  {fault}", markup=False, soft_wrap=True)
    write_json(json_path, asdict(done))


def analyse(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Spec or folder of a run, an export, data files or zoo-sample:DOMAIN/PART; also as DOMAIN=SOURCE.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="Model whose states place them; zoo:base works."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for page and figures.")] = Path(
        "analysis"
    ),
    per_domain: Annotated[
        int, typer.Option("--per-domain", metavar="N", min=1, help="Instructions drawn of each domain.")
    ] = 5000,
    method: Annotated[str, typer.Option("--method", metavar="METHOD", help="tsne or pca.")] = "tsne",
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Heading of the page.")] = "Instructions",
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", min=1, help="Tokens read of each.")] = 512,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the draw and of t-SNE.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Draw a map of the instructions by domain and measure how varied they are: one HTML page, a picture, figures."""
    from ultrafuser.analysis.projection import PROJECTIONS
    from ultrafuser.cli import analysing
    from ultrafuser.lookup import lookup

    lookup(PROJECTIONS, method, "--method")
    items = analysing.read_items(sources, per_domain, seed)
    console = human_console(json_path)
    console.print(f"{len(items)} instructions; reading them with {model}", markup=False, soft_wrap=True)
    found = analysing.analyse(items, model, output, title=title, method=method, seed=seed, max_tokens=max_tokens)
    console.print(f"page  {output / analysing.PAGE}", markup=False, soft_wrap=True)
    write_json(json_path, found | {"output": str(output)})
