"""`ultrafuser specialise`: a specialist from a base model and one domain's data, as a low-rank adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ultrafuser.cli.common import (
    JsonOption,
    RevisionOption,
    from_options,
    human_console,
    resolve_data,
    resolve_source,
    write_json,
)

EXIT_SIGNAL = 128  # plus the signal's number, as shells do


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("specialise")(specialise)


def specialise(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Folder of a causal LM, a .gguf file, zoo:NAME, or a Hub id.")
    ],
    data: Annotated[list[str], typer.Option("--data", metavar="FILE", help="Conversations to learn from; repeat it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the adapter.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The specialist's name.")] = "specialist",
    template: Annotated[
        str | None, typer.Option("--template", metavar="NAME", help="Chat template; left out: the base's own.")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", metavar="R", help="Rank of the adapter.")] = 8,
    alpha: Annotated[float, typer.Option("--alpha", metavar="A", help="Its updates are scaled by A / R.")] = 16.0,
    dropout: Annotated[float, typer.Option("--dropout", metavar="X", help="Dropout before the adapter.")] = 0.0,
    targets: Annotated[
        str, typer.Option("--targets", metavar="A,B", help="Names of the layers it sits on; all-linear: all.")
    ] = "all-linear",
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Optimiser steps.")] = 400,
    examples: Annotated[int, typer.Option("--examples", metavar="N", help="Conversations per step.")] = 16,
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="Its largest value.")] = 2e-4,
    warmup_steps: Annotated[
        int | None,
        typer.Option("--warmup-steps", metavar="N", help="Steps of the rise from 0; left out: 10, or a quarter."),
    ] = None,
    save_every: Annotated[int, typer.Option("--save-every", metavar="N", help="Steps between checkpoints.")] = 50,
    eval_every: Annotated[int, typer.Option("--eval-every", metavar="N", help="Steps between validations.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Use at most N conversations.")] = None,
    validation_fraction: Annotated[
        float, typer.Option("--validation-fraction", metavar="X", help="Share set aside for validation.")
    ] = 0.05,
    max_length: Annotated[
        int, typer.Option("--max-length", metavar="N", help="Longer conversations are left out (tokens).")
    ] = 512,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="TYPE", help="bfloat16: products in 16 bits; or float32.")
    ] = "bfloat16",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of adapter, batches and split.")] = 0,
    merged: Annotated[
        Path | None,
        typer.Option("--merged", metavar="DIR", help="Also write base and adapter as one ordinary model."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter that lies there.")] = False,
    revision: RevisionOption = None,
    json_path: JsonOption = None,
) -> int:
    """Train a low-rank adapter on one domain's data: with one base and three data sets, three specialists.

    Killed or stopped midway, the same command goes on where it was. The adapter is in PEFT's format; `--merged` writes
    a model folder that a recipe can name as a specialist.
    """
    from ultrafuser.lookup import lookup
    from ultrafuser.recipe import StageConfig

    lookup({"bfloat16": 0, "float32": 0}, dtype, "--dtype")
    stage = from_options(
        StageConfig, {"examples_per_category": "--examples"}, name=name, train="specialists", steps=steps,
        examples_per_category=examples, learning_rate=learning_rate, save_every=save_every, eval_every=eval_every,
        warmup_steps=min(10, steps // 4) if warmup_steps is None else warmup_steps,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "name": name, "revision": revision, "template": template, "limit": limit, "max_length": max_length,
        "validation_fraction": validation_fraction, "dtype": dtype, "seed": seed, "overwrite": overwrite,
        "merged": merged,
    }  # fmt: skip
    from ultrafuser.training import Adapter

    settings["adapter"] = Adapter(rank, alpha, dropout, targets if targets == "all-linear" else _words(targets))
    source = base if revision else resolve_source(base)
    return _run(source, [resolve_data(one) for one in data], output, stage, settings, json_path)


def _in_options(text: str, name: str) -> str:
    """An error of the training, which names a recipe's fields, in this verb's options."""
    fields = {
        f"data.{name}.limit": "--limit",
        f"data.{name}": "--data",
        f"specialists.{name}.template": "--template",
        f"specialists.{name}": "BASE",
        "validation_fraction": "--validation-fraction",
    }
    found = next((field for field in fields if text.startswith(field)), "")
    return fields.get(found, "") + text.removeprefix(found)


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _run(base: str, data: list[str], output: Path, stage: Any, settings: dict[str, Any], json_path: str | None) -> int:
    from ultrafuser.cli.train_verb import told
    from ultrafuser.training import Progress, TrainingInterrupted
    from ultrafuser.training import specialise as train

    console = human_console(json_path)
    bar = Progress(console)
    try:
        with told(console):
            found = train(
                base, data, output, stage, callbacks=[bar],
                say=lambda message: console.print(f"{message} ...", style="dim", markup=False, soft_wrap=True),
                **settings,
            )  # fmt: skip
    except ValueError as error:
        raise ValueError(_in_options(str(error), settings["name"])) from error
    except TrainingInterrupted as stopped:
        console.print(str(stopped), markup=False, soft_wrap=True)
        return EXIT_SIGNAL + stopped.signum
    finally:
        bar.close()
    share = 100 * found.trained_parameters / found.base_parameters
    before, after = (losses or {} for losses in (found.stage.before, found.stage.after))
    console.print(f"{found.trained_parameters:,} weights learned ({share:.2f}% of the base's)", markup=False)
    for domain, loss in after.items():
        console.print(f"validation loss: {before[domain]:.4f} before, {loss:.4f} after (nats per token)", markup=False)
    console.print(f"adapter saved to {found.output} ({found.seconds:.0f} s)", markup=False, soft_wrap=True)
    write_json(json_path, found.as_dict())
    return 0
