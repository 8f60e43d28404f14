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
    from_options,
    human_console,
    resolve_source,
    write_json,
)

if TYPE_CHECKING:
    from ultrafuser.cli.opening import Opened
    from ultrafuser.preflight.sources import Located, SourceError

OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the changed model.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the model that lies in DIR.")]
GateOnlyOption = Annotated[
    bool, typer.Option("--gate-only", help="Save the gate alone, pointing at the specialists' folders.")
]
PARTS = {"source": "SOURCE"}
GATE_NOTES = {
    "kept": "The gate is shared by all specialists and serves the new set as it is.",
    "extended": "A constant gate has one learned weight per specialist: the newcomer starts at the mean of the others, "
    "and training settles it.",
    "cut": "A constant gate has one learned weight per specialist: the others keep theirs.",
    "redrawn": "This gate reads all specialists together, so another set needs another gate: it was drawn anew and "
    "is untrained.",
}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("add")(add)
    app.command("remove")(remove)


def add(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new specialist.")],
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Folder of a model or adapter, .gguf file, zoo:NAME, or a Hub id."),
    ],
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
        str | None, typer.Option("--base", metavar="BASE", help="An adapter's base, if not what it names itself.")
    ] = None,
    base_revision: Annotated[
        str | None, typer.Option("--base-revision", metavar="REV", help="Makes BASE a Hub id.")
    ] = None,
    specialist_path: SpecialistPathOption = None,
    json_path: JsonOption = None,
) -> None:
    """Add a specialist to a fused model. A shared gate needs no new weights for it, and an adapter whose base is there
    already shares that one."""
    from ultrafuser.cli.opening import open_fused
    from ultrafuser.modeling import add_specialist, check_output

    check_output(output, overwrite, "--output")
    found = _locate(source, revision, base, base_revision)
    opened = open_fused(model, device="cpu", specialist_paths=specialist_path)
    jinja = _check_newcomer(opened, name, found, template)
    place = source if revision else str(found.place if found.adapter is None else found.adapter.folder)
    if base is not None and base_revision is None:
        base = str(found.place)
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

    spec = from_options(
        SpecialistSource, PARTS, source=source, revision=revision, base=base, base_revision=base_revision
    )
    try:
        return locate(spec, resolve_source, with_base=False)
    except SourceError as error:
        raise _refused(error) from None


def _refused(error: SourceError) -> ValueError:
    return ValueError(f"{PARTS.get(error.part, '--base')}: {error.message}" + (f"; {error.fix}" if error.fix else ""))


def _check_newcomer(opened: Opened, name: str, found: Located, template: str | None) -> str:
    """The newcomer's template; ValueError where it cannot join, before its weights are read."""
    from dataclasses import replace

    from ultrafuser.preflight.adapters import check_base, check_fit
    from ultrafuser.preflight.facts import has_tokenizer, open_tokenizer, read_facts
    from ultrafuser.preflight.findings import Report
    from ultrafuser.preflight.sources import SourceError
    from ultrafuser.preflight.vocabulary import check_vocabularies
    from ultrafuser.templates import load_template

    if name in opened.names:
        raise ValueError(f"NAME: {name!r} is taken (there are {', '.join(opened.names)}); choose another name")
    if found.adapter is not None and found.place == found.adapter.folder.resolve():  # its base is in the fused model
        folder = found.adapter.folder
        return load_template(
            template, open_tokenizer(folder) if has_tokenizer(folder) else opened.tokenizer, field="--template"
        )
    report = Report()
    try:
        facts = read_facts(name, found)
        check_fit(facts, found)
        check_base(facts, found, report, lambda message: None)
    except SourceError as error:
        raise _refused(error) from None
    whole = replace(facts, name="fused model", tokenizer=opened.tokenizer, vocab_rows=opened.model.config.vocab_size)
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
    fate = {"joint": "redrawn", "answer": "redrawn", "constant": "extended" if "added" in change else "cut"}.get(
        kind, "kept"
    )
    console = human_console(json_path)
    console.print(Text.assemble((change, "bold"), f": {output} now fuses {', '.join(result.names)}"), soft_wrap=True)
    console.print(GATE_NOTES[fate], style="dim", soft_wrap=not console.is_terminal)
    announce(console, result)
    write_json(json_path, result.as_dict() | {"change": change, "gate_change": fate, "output": str(output)})
