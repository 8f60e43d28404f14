"""`add` and `remove`: change the set of specialists of a fused model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ultrafuser.cli.common import (
    JsonOption,
    ModelArgument,
    SpecialistPathOption,
    human_console,
    resolve_source,
    write_json,
)

if TYPE_CHECKING:
    from ultrafuser.cli.opening import Opened
    from ultrafuser.preflight.sources import Located

OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the changed model.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the model that lies in DIR.")]
GateOnlyOption = Annotated[
    bool, typer.Option("--gate-only", help="Save the gate alone, pointing at the specialists' folders.")
]
GATE_NOTES = {
    "kept": "The gate is shared by all specialists and serves the new set as it is.",
    "extended": "A constant gate has one learned weight per specialist: the newcomer starts at the mean of the others, "
    "and training settles it.",
    "cut": "A constant gate has one learned weight per specialist: the others keep theirs.",
    "redrawn": "A joint gate reads all specialists together, so another set needs another gate: it was drawn anew and "
    "is untrained.",
}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("add")(add)
    app.command("remove")(remove)


def add(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new specialist.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Its folder, zoo:NAME, or a Hub id with --revision.")],
    output: OutputOption,
    template: Annotated[
        str | None, typer.Option("--template", metavar="T", help="Its chat template: a name, a .jinja file, or own.")
    ] = None,
    overwrite: OverwriteOption = False,
    gate_only: GateOnlyOption = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit: makes SOURCE a Hub id.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="SOURCE", help="Base of an adapter, where it is not the one it names."),
    ] = None,
    base_revision: Annotated[
        str | None, typer.Option("--base-revision", metavar="REV", help="Makes --base a Hub id.")
    ] = None,
    specialist_path: SpecialistPathOption = None,
    json_path: JsonOption = None,
) -> None:
    """Add a specialist to a fused model. A shared gate needs no new weights for it.

    An adapter whose base is in the model already shares that one.
    """
    from ultrafuser.cli.opening import open_fused
    from ultrafuser.modeling import add_specialist, check_output

    check_output(output, overwrite, "--output")
    base = resolve_source(base) if base is not None and base_revision is None else base
    found = _locate(source, revision, base, base_revision)
    opened = open_fused(model, device="cpu", specialist_paths=specialist_path)
    jinja = _check_newcomer(opened, name, found, template)
    place = source if revision is not None else str(found.place if found.adapter is None else found.adapter.folder)
    changed = add_specialist(
        opened.model, name, place, jinja, revision=revision, base=base, base_revision=base_revision
    )
    _finish(opened, changed, output, f"{name} added", gate_only, overwrite, json_path)


def remove(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The specialist to leave out.")],
    output: OutputOption,
    overwrite: OverwriteOption = False,
    gate_only: GateOnlyOption = False,
    specialist_path: SpecialistPathOption = None,
    json_path: JsonOption = None,
) -> None:
    """Leave a specialist out of a fused model."""
    from ultrafuser.cli.opening import open_fused
    from ultrafuser.lookup import lookup
    from ultrafuser.modeling import check_output, remove_specialist

    check_output(output, overwrite, "--output")
    opened = open_fused(model, device="cpu", specialist_paths=specialist_path)
    lookup(dict.fromkeys(opened.names), name, "NAME")
    changed = remove_specialist(opened.model, name)
    _finish(opened, changed, output, f"{name} removed", gate_only, overwrite, json_path)


def _locate(source: str, revision: str | None, base: str | None, base_revision: str | None) -> Located:
    from ultrafuser.preflight.sources import SourceError, locate
    from ultrafuser.recipe import SpecialistSource

    try:
        wanted = SpecialistSource(source=source, revision=revision, base=base, base_revision=base_revision)
        return locate(wanted, resolve_source)
    except SourceError as error:
        raise ValueError(f"SOURCE: {error.message}" + (f"; {error.fix}" if error.fix else "")) from None


def _check_newcomer(opened: Opened, name: str, found: Located, template: str | None) -> str:
    """The newcomer's template; ValueError where it cannot join, before its weights are read."""
    from dataclasses import replace

    from ultrafuser.preflight.facts import read_facts
    from ultrafuser.preflight.findings import Report
    from ultrafuser.preflight.sources import SourceError
    from ultrafuser.preflight.vocabulary import check_vocabularies
    from ultrafuser.templates import load_template

    if name in opened.names:
        raise ValueError(f"NAME: {name!r} is taken (there are {', '.join(opened.names)}); choose another name")
    try:
        facts = read_facts(name, found)
    except SourceError as error:
        raise ValueError(f"SOURCE: {error.message}" + (f"; {error.fix}" if error.fix else "")) from None
    whole = replace(facts, name="fused model", tokenizer=opened.tokenizer, vocab_rows=opened.model.config.vocab_size)
    report = Report()
    check_vocabularies([whole, facts], "fused model", report)
    report.raise_if_errors()
    return load_template(template, facts.tokenizer, field="--template")


def _finish(
    opened: Opened, changed: Any, output: Path, change: str, gate_only: bool, overwrite: bool, json_path: str | None
) -> None:
    from dataclasses import replace

    from ultrafuser.cli.speaking import announce
    from ultrafuser.modeling import save_fused

    save_fused(changed, opened.tokenizer, output, gate_only=gate_only, overwrite=overwrite)
    result = replace(opened, source=str(output), model=changed)
    kind = changed.config.gate["type"]
    fate = {"joint": "redrawn", "constant": "extended" if "added" in change else "cut"}.get(kind, "kept")
    console = human_console(json_path)
    console.print(Text.assemble((change, "bold"), f": {output} now fuses {', '.join(result.names)}"), soft_wrap=True)
    console.print(GATE_NOTES[fate], style="dim", soft_wrap=not console.is_terminal)
    announce(console, result)
    write_json(json_path, result.as_dict() | {"change": change, "gate_change": fate, "output": str(output)})
