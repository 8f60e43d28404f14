"""`ultrafuser train`: from a recipe to a fused model, all stages, going on by itself after an interruption."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ultrafuser.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    human_console,
    resolve_data,
    resolve_source,
    write_json,
)

if TYPE_CHECKING:
    from ultrafuser.recipe import Recipe
    from ultrafuser.training import RecipeResult, StageResult

EXIT_SIGNAL = 128  # plus the signal's number, as shells do


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("train")(train)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe (YAML).")],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for the fused model, not the recipe's."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model, or an unfinished run with other settings, in there.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Each stage hands on its weights of the best validation loss, not its last.")
    ] = False,
    gate_only: Annotated[
        bool, typer.Option("--gate-only", help="Save the gate alone (megabytes); it points at the specialists' files.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="DIR", help="Go on from this fused model's weights, its gate included."),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json_path: JsonOption = None,
) -> int:
    """Train a fused model as a recipe says and save it, with its card, ready for `chat`.

    Killed or stopped midway, the same command goes on where it was and ends with the same weights. Checkpoints, history
    and TensorBoard lie in OUTPUT/work.
    """
    from ultrafuser.recipe import load_recipe

    loaded = load_recipe(recipe)
    where = None if output is None else str(output.expanduser().absolute())
    loaded = _changed(loaded, {"output": where, "device": device, "dtype": dtype})
    console = human_console(json_path)
    _preflight(console, loaded, overwrite)
    from ultrafuser.training import Progress, TrainingInterrupted, train_recipe

    console = console if _is_main() else Console(quiet=True)
    bar = Progress(console)
    try:
        with told(console):
            result = train_recipe(
                loaded,
                resolve=resolve_source,
                resolve_data=resolve_data,
                overwrite=overwrite,
                keep="best" if best else "last",
                gate_only=gate_only,
                start=start,
                callbacks=[bar],
                say=lambda message: console.print(f"{message} ...", style="dim", markup=False, soft_wrap=True),
            )
    except TrainingInterrupted as stopped:
        console.print(str(stopped), markup=False, soft_wrap=True)
        return EXIT_SIGNAL + stopped.signum
    finally:
        bar.close()
    if _is_main():
        show(console, result)
        write_json(json_path, result.as_dict())
    return 0


def _changed(recipe: Recipe, fields: dict[str, str | None]) -> Recipe:
    """The recipe with what the command line says in its place. Raises RecipeError for values it cannot have."""
    from ultrafuser.recipe import Recipe

    given = {name: value for name, value in fields.items() if value is not None}
    changed = Recipe(**recipe.model_dump() | given) if given else recipe
    changed._folder = recipe._folder
    return changed


def _preflight(console: Console, recipe: Recipe, overwrite: bool) -> None:
    """Every error of `ultrafuser check` before anything large is opened; its warnings are shown."""
    from ultrafuser.preflight import check
    from ultrafuser.training.work import is_unfinished

    if not recipe.stages:
        raise ValueError("stages: the recipe has none, so there is nothing to train; name at least one")
    going_on = is_unfinished(recipe.output)
    report = check(recipe, resolve=resolve_source, resolve_data=resolve_data, overwrite=overwrite or going_on)
    report.raise_if_errors()
    if _is_main():
        for finding in report.warnings:
            console.print(Text.assemble(("warning: ", "yellow"), str(finding)), soft_wrap=True)


def _is_main() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


@contextmanager
def told(console: Console) -> Iterator[None]:
    """Warnings of ours become lines on the console, above the bar; the libraries below are silent."""
    from ultrafuser.cli.opening import quiet_libraries

    quiet_libraries()
    logger = logging.getLogger("ultrafuser")
    handler = _ConsoleHandler(console)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.showwarning = lambda message, category, *rest, **more: handler.say(str(message))
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage())

    def say(self, message: str) -> None:
        self.console.print(Text.assemble(("warning: ", "yellow"), message), soft_wrap=True)


def show(console: Console, result: RecipeResult) -> None:
    """Tables of validation loss by stage, of gate weights, of held-out loss; and what to do next."""
    stages = result.training.stages
    if any(stage.after for stage in stages):
        console.print("\nvalidation loss (nats per response token)", style="bold")
        console.print(_loss_table(stages))
    weights = result.heldout_gate_weights or stages[-1].gate_weights
    if weights and len(result.specialists) > 1:
        data = "held-out" if result.heldout_gate_weights else "validation" if stages[-1].after else "last training"
        console.print(f"\nmean gate weights on the {data} data", style="bold")
        console.print(_weight_table(weights, result.specialists))
    if result.heldout:
        console.print("\nheld-out loss (nats per response token)", style="bold")
        console.print(_heldout_table(result.heldout))
    for note in _left_out(result.data):
        console.print(note, style="dim", markup=False)
    console.print(f"\nfused model saved to {result.output} ({result.seconds:.0f} s)", markup=False, soft_wrap=True)
    console.print(f"next: ultrafuser chat {result.output}", markup=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table


def _loss_table(stages: list[StageResult]) -> Table:
    domains = list(next(stage.after for stage in stages if stage.after) or {})
    table = _table("", *domains)
    if stages[0].before:
        table.add_row("before", *(f"{stages[0].before[domain]:.4f}" for domain in domains))
    for stage in stages:
        if stage.after:
            best = f" (best: step {stage.best['step']})" if stage.best else ""
            table.add_row(f"after {stage.name}{best}", *(f"{stage.after[domain]:.4f}" for domain in domains))
    return table


def _weight_table(weights: dict[str, dict[str, float]], specialists: list[str]) -> Table:
    table = _table("domain", *specialists)
    for domain, row in weights.items():
        largest = max(row, key=row.__getitem__)
        cells = [Text(f"{row[name]:.3f}", "bold" if name == largest else "") for name in specialists]
        table.add_row(domain, *cells)
    return table


def _heldout_table(heldout: dict[str, dict[str, float]]) -> Table:
    domains = list(next(iter(heldout.values())))
    lowest = {domain: min(row[domain] for row in heldout.values()) for domain in domains}
    table = _table("", *domains)
    for method, row in heldout.items():
        cells = [Text(f"{row[domain]:.4f}", "bold" if row[domain] == lowest[domain] else "") for domain in domains]
        table.add_row(method, *cells)
    return table


def _left_out(data: dict[str, dict[str, Any]]) -> list[str]:
    notes = []
    for domain, counts in data.items():
        for key, why in (("dropped_too_long", "longer than max_length"), ("removed_for_overlap", "also held out")):
            if counts[key]:
                notes.append(f"{domain}: {counts[key]} training conversations left out ({why})")
    return notes
