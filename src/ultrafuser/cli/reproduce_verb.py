"""`ultrafuser reproduce`: the paper's tables and figures at a chosen scale, in a report with the paper's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ultrafuser.cli.common import JsonOption, human_console, write_json

if TYPE_CHECKING:
    from ultrafuser.reproduce.plan import Plan
    from ultrafuser.reproduce.schedule import Event
    from ultrafuser.reproduce.tables.table import Column, Table

SIGNS = {"yes": ("✓ ", "green"), "no": ("✗ ", "red"), "even": ("≈ ", "yellow")}
EXIT_FAILED = 1
LABEL_WIDTH, WORD_WIDTH = 16, 24  # characters of a row's label before it is folded, and of one of its words


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("reproduce")(reproduce)


def reproduce(
    scale: Annotated[str, typer.Option(help="smoke, tiny, small or paper.")] = "tiny",
    only: Annotated[str | None, typer.Option(help="Tables to make, such as table1,table3.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; left out: the scale's number.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with training conversations for text, code and math.", exists=True)
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe in place of the shipped trio and sample.")] = None,
    benchmarks: Annotated[Path | None, typer.Option(help="Folder with the benchmarks' data.", exists=True)] = None,
    other_data: Annotated[
        Path | None, typer.Option(help="Folder like --data: other conversations, for Table 9.", exists=True)
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="URL", help="Endpoint of the judge of chat answers, for Tables 5 and 7.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(metavar="NAME", help="The judge's name at that endpoint.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for results and report.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes side by side.")] = None,
    show_plan: Annotated[bool, typer.Option("--plan", help="Say what would be run, and run nothing.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report", help="Write the report of what is there, and run nothing.")
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Reproduce the paper's tables and figures at a chosen scale, beside the paper's own figures.

    Killed at any time, the same command goes on; what is there already is not run again. A run that fails is told in
    the report and takes no other with it.
    """
    from ultrafuser.reproduce import SCALES, chosen_tables, make_plan, report_so_far
    from ultrafuser.reproduce import reproduce as run

    console = human_console(json_path)
    plan = make_plan(
        scale,
        chosen_tables(scale, only),
        seeds=seeds,
        data=data,
        recipe=recipe,
        benchmarks=benchmarks,
        other_data=other_data,
        judge=judge,
        judge_model=judge_model,
    )
    folder = output if output is not None else Path("runs") / f"reproduce-{scale}"
    if report_only:
        report = report_so_far(folder, plan)
    elif show_plan or (SCALES[scale].needs_gpu and not _has_gpu()):
        _show_plan(console, plan, folder)
        return
    else:
        console.print(f"Working in {folder}. Stop it at any time: the same command goes on.", markup=False)
        report = run(folder, plan, workers=workers, on_event=Lines(console))
    for table in report.tables.values():
        console.print(grid(table, console.width) if table.rows else Text(table.title, style="italic"))
        for finding in table.findings:
            console.print(Text.assemble(SIGNS[finding.verdict], finding.text))
        console.print()
    for name, why in report.failures.items():
        console.print(Text.assemble(("failed: ", "bold red"), f"{name}: {why}"))
    console.print(f"report   {folder / 'report.html'}", markup=False, soft_wrap=True)
    write_json(json_path, report.numbers())
    if report.failures:
        raise typer.Exit(EXIT_FAILED)


class Lines:
    """A line when a run begins, now and then while it goes on, and when it ends, with the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[str, tuple[str, int]] = {}

    def __call__(self, event: Event) -> None:
        left = "" if event.left is None else f", about {duration(event.left)} left"
        where = f"[{event.finished} of {event.total}{left}]"
        if event.kind == "at":
            quarter = 4 * event.done // max(1, event.steps)
            if (event.phase, quarter) == self.said.get(event.run) or event.done == 0:
                return
            self.said[event.run] = (event.phase, quarter)
            loss = "" if event.loss is None else f", loss {event.loss:.3f}"
            text = f"{event.run}: {event.phase} {event.done} of {event.steps}{loss}"
        elif event.kind == "failed":
            text = f"{event.run}: failed: {event.error}"
        elif event.kind == "done":
            text = f"{event.run}: done in {duration(event.seconds)}"
        else:
            text = f"{event.run}: begins"
        self.console.print(f"{where} {text}", markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def grid(table: Table, width: int = 80) -> Grid:
    """A table for a terminal of that width, the best of each column in bold.

    No number is cut: columns that do not fit are left to the report, and the caption says how many.
    """
    from ultrafuser.reproduce.report import cell_text

    texts = {
        column.key: [cell_text(row.cells.get(column.key), column.unit) for row in table.rows]
        for column in table.columns
    }
    least = {
        column.key: max(map(len, [*texts[column.key], *column.label.split()]), default=0) for column in table.columns
    }
    labels = [table.first, *(row.label for row in table.rows)]
    words = [word for label in labels for word in label.split()]
    label = max(min(LABEL_WIDTH, max(map(len, labels))), min(WORD_WIDTH, max(map(len, words), default=0)))
    shown: list[Column] = []
    left = width - label - 4
    for column in table.columns:
        left -= least[column.key] + 3
        if left < 0 and shown:
            break
        shown.append(column)
    hidden = len(table.columns) - len(shown)
    caption = f"and {hidden} more column{'s' if hidden > 1 else ''} in the report" if hidden else None
    found = Grid(title=table.title, title_justify="left", caption=caption, caption_justify="left")
    found.add_column(table.first, min_width=label, overflow="fold")
    for column in shown:
        found.add_column(column.label, justify="right", min_width=least[column.key])
    for place, row in enumerate(table.rows):
        if place and row.group != table.rows[place - 1].group:
            found.add_section()
        cells = []
        for column in shown:
            cell, best = row.cells.get(column.key), table.best(column, row.group)
            won = cell is not None and not row.oracle and cell.mean == best
            cells.append(Text(texts[column.key][place], style="bold green" if won else ""))
        found.add_row(Text(row.label, style="bold" if row.ours else ""), *cells)
    return found


def _show_plan(console: Console, plan: Plan, folder: Path) -> None:
    """The recipe, and the runs with what is there already."""
    from ultrafuser.reproduce.runs import Store, in_order
    from ultrafuser.reproduce.tables import wanted_runs

    store = Store(folder, plan)
    runs = in_order(wanted_runs(plan), plan)
    console.print(plan.open_recipe().dump_yaml(public=True), markup=False, soft_wrap=True)
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    console.print(f"{count} for {', '.join(plan.tables)}, seeds {', '.join(map(str, plan.seeds))}:")
    for run in runs.values():
        console.print(f"  {'done   ' if store.has(run) else 'to do  '} {run.name}", markup=False)
    if plan.settings.needs_gpu and not _has_gpu():
        console.print("Nothing was run: this scale needs a GPU that PyTorch can use, and here is none.")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
