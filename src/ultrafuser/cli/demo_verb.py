"""`ultrafuser demo`: fuse the shipped trio live, compare it with everything it should beat, keep the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from ultrafuser.cli.common import JsonOption, human_console, write_json

if TYPE_CHECKING:
    from ultrafuser.demo.results import Curve, DemoDetails, DemoResult, Example
    from ultrafuser.demo.run import OnProgress, Progress

DEFAULT_OUTPUT = Path("runs/demo")
EXAMPLE_LINES = 14
SPARKS = "▁▂▃▄▅▆▇█"
PHASES = {
    "stage1": "stage 1: the gate learns",
    "stage2": "stage 2: everything learns",
    "further_tuned": "one specialist further tuned",
    "uniform_stage2": "uniform weights, trained",
}
SIGNS = {"yes": ("✓", "green"), "no": ("✗", "red"), "even": ("≈", "yellow")}


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report and the fused model.")] = DEFAULT_OUTPUT,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the gate and of the batches.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="Far fewer steps: shows the path, not the figures.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")] = False,
    json_path: JsonOption = None,
) -> None:
    """Fuse the three shipped specialists live, in a few minutes, and compare the result with its rivals.

    Killed midway, the same command goes on where it was. A finished run is shown again at once; `--overwrite` redoes
    it.
    """
    from ultrafuser.demo import make_plan, run_demo, shipped_sources

    console = human_console(json_path)
    if json_path not in (None, "-") and Path(str(json_path)).is_dir():
        raise ValueError(f"--json: {json_path} is a folder; name a file to write")
    plan = make_plan(seed, fast=fast)
    if overwrite or not (output / "result.json").is_file():
        console.print(
            f"Fusing text, code and math in {output}. Stop it at any time: the same command goes on.", markup=False
        )
    with _progress(console) as on_progress:
        result, details, stored = run_demo(
            output, plan, shipped_sources(), overwrite=overwrite, on_progress=on_progress
        )
    show(console, result, details)
    _farewell(console, output, result, stored)
    write_json(json_path, result.model_dump())


@contextmanager
def _progress(console: Console) -> Iterator[OnProgress]:
    """Bars on a terminal; elsewhere a line for each quarter of a phase."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description:<36}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]:<12}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def on_progress(progress: Progress) -> None:
            if progress.phase not in tasks:
                label = PHASES.get(progress.phase, progress.phase)
                tasks[progress.phase] = bars.add_task(label, total=progress.total, note="")
            note = "" if progress.loss is None else f"loss {progress.loss:.3f}"
            bars.update(tasks[progress.phase], completed=progress.done, total=progress.total, note=note)  # type: ignore[arg-type]

        yield on_progress


class _Lines:
    """Progress for a log file."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[str, int] = {}

    def __call__(self, progress: Progress) -> None:
        quarter = 4 * progress.done // max(1, progress.total)
        if quarter <= self.said.get(progress.phase, -1):
            return
        self.said[progress.phase] = quarter
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        label = PHASES.get(progress.phase, progress.phase)
        self.console.print(f"{label}: {progress.done} of {progress.total}{loss}", markup=False)


def show(console: Console, result: DemoResult, details: DemoDetails) -> None:
    """Everything that the report says, as far as a terminal can."""
    from ultrafuser.demo.reading import findings

    console.print(loss_table(result))
    console.print(weight_table(result))
    console.print(curve_lines(details.curves))
    example = next((e for e in details.examples if not e.written), None)
    if example is not None:
        console.print(coloured(example, result.names))
    for finding in findings(result):
        sign, style = SIGNS[finding.verdict]
        console.print(Text.assemble((f"{sign} ", style), finding.text))


def loss_table(result: DemoResult) -> Table:
    """Held-out loss: rows models, columns domains, the lowest of each column marked."""
    from ultrafuser.demo.report import loss_rows
    from ultrafuser.demo.results import COLUMNS

    table = Table(title="held-out loss, nats per response token (lower is better)", title_justify="left")
    table.add_column("model")
    for domain in COLUMNS:
        table.add_column(domain, justify="right")
    for row in loss_rows(result):
        if row.key == "uniform" or row.key == "stage1":
            table.add_section()
        cells = [
            Text(f"{row.losses[domain]:.3f}", style="bold green" if domain in row.best else "") for domain in COLUMNS
        ]
        label = f"{row.label} ({result.base})" if row.key == "further_tuned" else row.label
        table.add_row(Text(label, style="bold" if row.key == "stage2" else ""), *cells)
    return table


def weight_table(result: DemoResult) -> Table:
    """Mean gate weights: rows specialists, columns domains, in the specialists' colours."""
    from ultrafuser.analysis.colours import colour
    from ultrafuser.demo.results import COLUMNS

    table = Table(title="mean gate weight after stage 2", title_justify="left")
    table.add_column("specialist")
    for domain in COLUMNS:
        table.add_column(domain, justify="right")
    for j, name in enumerate(result.names):
        cells = []
        for domain in COLUMNS:
            weights = result.gate_weights[domain]
            cells.append(Text(f"{weights[name]:.2f}", style="bold" if weights[name] == max(weights.values()) else ""))
        table.add_row(Text(name, style=colour(j)), *cells)
    return table


def curve_lines(curves: Sequence[Curve]) -> Text:
    """One line per training: its loss as a row of blocks, first and last value."""
    from ultrafuser.analysis.svg import running_mean

    smooth = {curve.name: running_mean(curve.loss) for curve in curves if curve.loss}
    if not smooth:
        return Text("")
    low, high = min(map(min, smooth.values())), max(map(max, smooth.values()))
    text = Text("training loss (running mean)\n", style="italic")
    for name, values in smooth.items():
        picked = [values[round(i * (len(values) - 1) / 35)] for i in range(36)]
        scale = (len(SPARKS) - 1) / (high - low if high > low else 1.0)
        blocks = "".join(SPARKS[round((value - low) * scale)] for value in picked)
        label = PHASES.get(name, name)
        text.append(f"{label:<30}{values[0]:6.2f} {blocks} {values[-1]:.2f}\n", style="not italic")
    return text


def coloured(example: Example, names: Sequence[str]) -> Text:
    """A held-out answer, each token in the colours of the specialists that spoke."""
    from ultrafuser.analysis.colours import colour, shade

    text = Text("a held-out composite answer as the gate reads it: ", style="italic")
    for j, name in enumerate(names):
        text.append(f"■ {name}  ", style=f"not italic {colour(j)}")
    prompt = " ".join(example.prompt.split())
    text.append(f"\n{prompt if len(prompt) <= 160 else prompt[:157] + '...'}\n", style="not italic dim")
    lines = 0
    for token in example.tokens:
        lines += token.text.count("\n")
        if lines >= EXAMPLE_LINES:
            text.append("\n... (the rest is in the report)", style="not italic dim")
            break
        text.append(token.text, style=f"not italic {shade(token.weights)}")
    return text.append("\n")


def _farewell(console: Console, output: Path, result: DemoResult, stored: bool) -> None:
    console.print()
    if stored:
        console.print(f"This is the stored result of an earlier run (seed {result.seed}); --overwrite redoes it.")
    else:
        console.print(f"Done in {result.seconds['total']:.0f} seconds (seed {result.seed}).")
    console.print(f"report       {output / 'report.html'}", markup=False, soft_wrap=True)
    console.print(f"talk to it   ultrafuser chat {output / 'fused'}", markup=False, soft_wrap=True)
