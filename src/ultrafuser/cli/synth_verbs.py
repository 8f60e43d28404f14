"""`ultrafuser synth ...`: instruction data for one's own domains from a strong model, planned, made, reviewed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultrafuser.cli import synth_data_verbs
from ultrafuser.cli.common import JsonOption, human_console, write_json
from ultrafuser.cli.synth_data_verbs import SpecArgument

if TYPE_CHECKING:
    from rich.console import Console

    from ultrafuser.synthesis.engine import Engine, Stopped
    from ultrafuser.synthesis.journal import Journal
    from ultrafuser.synthesis.spec import Spec

EXIT_INCOMPLETE = 3
EXIT_SIGNAL = 128  # plus the signal's number, as shells do


def register(app: typer.Typer) -> None:
    """Add the group of verbs to the command line."""
    group = typer.Typer(no_args_is_help=False, rich_markup_mode="markdown")
    group.command("init")(init)
    group.command("plan")(plan)
    group.command("run")(run)
    group.command("status")(status)
    group.command("review")(review)
    synth_data_verbs.add_to(group)
    app.add_typer(group, name="synth", help="Make instruction data for your own domains with a strong model.")


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the spec.")] = Path("synth.yaml"),
    preset: Annotated[str, typer.Option("--preset", metavar="NAME", help="small or paper.")] = "small",
    json_path: JsonOption = None,
) -> None:
    """Write a commented spec to start from."""
    from ultrafuser.files import write_whole
    from ultrafuser.synthesis.presets import preset as text_of

    if file.exists():
        raise ValueError(f"FILE: {file} exists already; name another one, or remove it")
    write_whole(file, text_of(preset).replace("THIS_FILE", str(file)))
    console = human_console(json_path)
    console.print(f"wrote {file}; next: ultrafuser synth plan {file}", markup=False, soft_wrap=True)
    write_json(json_path, {"spec": str(file), "preset": preset})


def plan(spec: SpecArgument, json_path: JsonOption = None) -> None:
    """Say what a run will ask: requests, estimated tokens and cost of every step. Asks nothing."""
    from dataclasses import asdict

    from ultrafuser.cli.synth_showing import plan_lines, plan_table
    from ultrafuser.synthesis import Journal, load_spec, open_domains
    from ultrafuser.synthesis.estimate import estimate
    from ultrafuser.synthesis.filters import check_filters

    loaded = load_spec(spec)
    domains = open_domains(loaded)
    check_filters(loaded, domains)
    there = (loaded.output_folder / "journal.sqlite").is_file()
    if there:
        with Journal(loaded.output_folder) as journal:
            rows = estimate(loaded, domains, journal)
    else:
        rows = estimate(loaded, domains)
    console = human_console(json_path)
    console.print(plan_table(loaded, rows))
    for line in plan_lines(loaded, rows):
        console.print(line, markup=False, soft_wrap=True)
    write_json(json_path, {"name": loaded.name, "steps": [asdict(row) for row in rows]})


def run(
    spec: SpecArgument,
    no_review: Annotated[bool, typer.Option("--no-review", help="Do not stop for a person to edit topics.")] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Give up requests that get no answer in three tries.")
    ] = False,
    json_path: JsonOption = None,
) -> int:
    """Make the data; killed or stopped at any time, the same command goes on and asks nothing twice.

    Ends with status 0 when everything is made or waits for review, 3 when a cap or an endpoint stopped it.
    """
    from ultrafuser.cli.synth_showing import ProgressLines, summary
    from ultrafuser.synthesis import Journal, load_spec, open_domains
    from ultrafuser.synthesis.filters import check_filters
    from ultrafuser.synthesis.pipeline import Pipeline

    loaded = load_spec(spec)
    check_filters(loaded, open_domains(loaded))
    console = human_console(json_path)
    with Journal(loaded.output_folder) as journal:
        lines = ProgressLines(console, loaded, journal)
        pipeline = Pipeline(loaded, journal, lines)
        pipeline.engine.leave_out = leave_out
        with _stopping(pipeline.engine, console) as signals:
            stopped = pipeline.run(review=not no_review)
        lines.close()
        made = summary(loaded, journal)
    _tell(console, spec, stopped)
    write_json(json_path, made | {"stopped": None if stopped is None else stopped.kind})
    if signals:
        return EXIT_SIGNAL + signals[0]
    return EXIT_INCOMPLETE if stopped is not None and stopped.kind != "review" else 0


def status(spec: SpecArgument, json_path: JsonOption = None) -> None:
    """Say how far a run is: what is made, kept and left out in every step, and what it has cost."""
    from ultrafuser.cli.synth_showing import spent_line, status_table, summary
    from ultrafuser.synthesis import load_spec

    loaded = load_spec(spec)
    with _journal(loaded) as journal:
        found = summary(loaded, journal)
    console = human_console(json_path)
    console.print(status_table(found))
    console.print(spent_line(found), markup=False, soft_wrap=True)
    write_json(json_path, found)


def review(
    spec: SpecArgument,
    step: Annotated[str, typer.Option("--step", metavar="STEP", help="meta_topics or sub_topics.")] = "meta_topics",
    json_path: JsonOption = None,
) -> None:
    """Show what is up for review, where its file lies, and what your edits of it will do; changes nothing."""
    from ultrafuser.lookup import lookup
    from ultrafuser.synthesis import load_spec
    from ultrafuser.synthesis.review import file_of, read_review
    from ultrafuser.synthesis.steps import STEPS

    names = ("meta_topics", "sub_topics")
    lookup({name: STEPS[name] for name in names}, step, "--step")
    loaded = load_spec(spec)
    with _journal(loaded) as journal:
        file = file_of(journal, step)
        if not file.is_file():
            raise ValueError(f"there is no review file for {step} yet; `ultrafuser synth run {spec}` writes {file}")
        changes = read_review(journal, step)
    console = human_console(json_path)
    console.print(file.read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    counts = {"kept": changes.kept + len(changes.restored), "removed": len(changes.removed)}
    counts |= {"edited": len(changes.edited), "added": len(changes.added)}
    console.print(f"{file}: " + ", ".join(f"{n} {word}" for word, n in counts.items()), markup=False, soft_wrap=True)
    write_json(json_path, {"file": str(file), **counts})


def _journal(spec: Spec) -> Journal:
    from ultrafuser.synthesis import Journal

    return Journal(spec.output_folder, create=False)


@contextmanager
def _stopping(engine: Engine, console: Console) -> Iterator[list[int]]:
    """A first SIGINT or SIGTERM lets requests under way end; a second one ends the process as usual."""
    seen: list[int] = []

    def stop(number: int, frame: Any) -> None:
        seen.append(number)
        engine.stop.set()
        console.print("stopping: requests under way may end; once more to leave them")
        for name in before:
            signal.signal(name, signal.SIG_DFL)

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _tell(console: Console, spec: Path, stopped: Stopped | None) -> None:
    if stopped is None:
        console.print(f"complete; next: ultrafuser synth export {spec}", markup=False, soft_wrap=True)
        return
    again = f"`ultrafuser synth run {spec}` goes on"
    fixes = {"budget": f"raise the cap and {again}", "unanswered": f"{again}, with --leave-out without them"}
    console.print(f"{stopped.message}; {fixes.get(stopped.kind, again)}", markup=False, soft_wrap=True)
