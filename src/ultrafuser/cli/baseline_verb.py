"""`ultrafuser baseline`: what could be done instead of fusing, made under the same data and budget."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ultrafuser.cli.common import JsonOption, human_console, resolve_data, resolve_source, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from ultrafuser.baselines import Baseline, Made, Setting
    from ultrafuser.baselines.scores import Scores

LIST = "list"
EXIT_SIGNAL = 128  # plus the signal's number, as shells do


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("baseline")(baseline)


def baseline(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A baseline, with a colon its variant (further-tuned:code); or list.")
    ],
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="The recipe (YAML) that it stands beside.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for the model; left out: runs/baselines/NAME."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed, not the recipe's.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Steps of its training; left out: all of the recipe's.")
    ] = None,
    operations: Annotated[
        float | None,
        typer.Option("--operations", metavar="X", help="Training operations to spend, in place of steps (5e12)."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="DIR", help="The model that all specialists were trained from.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Keep the weights of the best validation loss, not the last.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what lies there.")] = False,
    json_path: JsonOption = None,
) -> int:
    """Make a rival of the fused model from the same recipe; `ultrafuser baseline list` says which there are.

    The result is an ordinary model folder for `eval`, `chat` and `generate`. Killed midway, the same command goes on.
    """
    from ultrafuser.baselines import find_baseline

    console = human_console(json_path)
    if name == LIST:
        _list(console, json_path)
        return 0
    row, variant = find_baseline(name)
    if recipe is None:
        raise ValueError(f"RECIPE: {name} needs one, for example `ultrafuser baseline {name} configs/tiny.yaml`")
    folder = output if output is not None else Path("runs/baselines") / re.sub(r"[^\w.-]+", "-", name)
    options = {
        "variant": variant, "base": base, "seed": seed, "steps": steps, "keep": "best" if best else "last",
        "overwrite": overwrite, "operations": _budget(operations, steps),
    }  # fmt: skip
    return _make(console, row, recipe, folder, options, json_path)


def _budget(operations: float | None, steps: int | None) -> int | None:
    if operations is not None and steps is not None:
        raise ValueError("--operations and --steps are both given; keep one of them")
    if operations is not None and not 1 <= operations < 1e30:
        raise ValueError(f"--operations: {operations:g} is no budget; give a number such as 5e12")
    return None if operations is None else int(operations)


def _make(
    console: Console, row: Baseline, recipe: Path, folder: Path, options: dict[str, Any], json_path: str | None
) -> int:
    from ultrafuser.cli.train_verb import told
    from ultrafuser.recipe import load_recipe

    loaded = load_recipe(recipe)
    from ultrafuser.baselines import Setting
    from ultrafuser.baselines.making import make_baseline
    from ultrafuser.training import Progress, TrainingInterrupted

    bar = Progress(console)
    try:
        with told(console):
            setting = Setting.from_recipe(
                loaded, folder, resolve=resolve_source, resolve_data=resolve_data, callbacks=[bar],
                say=lambda message: console.print(f"{message} ...", style="dim", markup=False, soft_wrap=True),
                **options,
            )  # fmt: skip
            made = make_baseline(row, setting)
            bar.close()
            scores = _scores(row, setting, made)
    except TrainingInterrupted as stopped:
        console.print(str(stopped), markup=False, soft_wrap=True)
        return EXIT_SIGNAL + stopped.signum
    finally:
        bar.close()
    _show(console, row, made, scores)
    losses = None if scores is None else scores.by_domain()
    write_json(json_path, {"baseline": row.name, "variant": setting.variant, **made.as_dict(), "heldout": losses})
    return 0


def _scores(row: Baseline, setting: Setting, made: Made) -> Scores | None:
    """Results on the held-out data, where the recipe has any."""
    from ultrafuser.baselines.scores import measure

    if setting.material.heldout is None:
        return None
    setting.say("measuring it on the held-out data")
    if row.score is not None:
        return row.score(setting, "heldout")
    assert made.folder is not None
    return measure(setting, made.folder)


def _show(console: Console, row: Baseline, made: Made, scores: Scores | None) -> None:
    console.print(made.note or row.summary, markup=False, soft_wrap=True)
    console.print(
        f"{made.parameters_trained:,} parameters trained, {made.parameters_used:,} used per token, {made.steps:,} "
        f"steps, {made.training_operations:.3g} operations of training",
        markup=False,
        soft_wrap=True,
    )
    if scores is not None:
        found = scores.by_domain()
        console.print("\nheld-out loss (nats per response token)", style="bold")
        table = Table(box=None, pad_edge=False)
        for domain in found:
            table.add_column(domain, justify="right")
        table.add_row(*(f"{loss:.4f}" for loss in found.values()))
        console.print(table)
    if made.folder is not None:
        console.print(f"\nmodel: {made.folder}", markup=False, soft_wrap=True)
        console.print(f"next: ultrafuser eval {made.folder}", markup=False, soft_wrap=True)


def _list(console: Console, json_path: str | None) -> None:
    from ultrafuser.baselines import BASELINES

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what it is", "needs"):
        table.add_column(heading)
    for row in BASELINES.values():
        table.add_row(row.name, row.summary, ", ".join(row.needs))
    console.print(table)
    write_json(
        json_path,
        {
            row.name: {"summary": row.summary, "needs": list(row.needs), "paper": row.paper}
            for row in BASELINES.values()
        },
    )
