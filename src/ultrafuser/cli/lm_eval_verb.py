"""`ultrafuser lm-eval`: lm-evaluation-harness with a fused model as its model; its own options pass through."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ultrafuser.cli.common import (
    DtypeOption,
    JsonOption,
    ModelArgument,
    QuantiseOption,
    RevisionOption,
    SpecialistPathOption,
    resolve_source,
    write_json,
)
from ultrafuser.lookup import did_you_mean

PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["--help"]}
NOT_FOUND = "Tasks not found: "  # how lm-eval begins its refusal of unknown tasks


def register(app: typer.Typer) -> None:
    """Add the verb to the command line. `-h` is left to the options of lm-eval: `-thellaswag` holds it."""
    app.command("lm-eval", context_settings=PASS_ON)(lm_eval)


def _show_their_help(wanted: bool) -> None:
    if wanted:
        _need_lm_eval()
        _their_parser().parse_args(["run", "--help"])


def lm_eval(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder of benchmark files, or sample: adds tasks ultrafuser_..., offline."
        ),
    ] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="NAME", help="Let one specialist answer alone.")] = None,
    specialist_path: SpecialistPathOption = None,
    revision: RevisionOption = None,
    dtype: DtypeOption = None,
    quantise: QuantiseOption = None,
    json_path: JsonOption = None,
    their_help: Annotated[
        bool,
        typer.Option("--lm-eval-help", help="Show lm-eval's own options.", is_eager=True, callback=_show_their_help),
    ] = False,
) -> None:
    """Run lm-evaluation-harness on a model. All of its options pass through, behind MODEL.

    For example: `ultrafuser lm-eval runs/demo/fused --tasks gsm8k --limit 20 --apply_chat_template --output_path out`.
    With `--apply_chat_template` every specialist reads the conversation in its own template. `--lm-eval-help` lists
    lm-eval's options.
    """
    if "-h" in context.args:
        typer.echo(context.get_help())
        return
    if model.startswith("-"):
        raise ValueError(f"MODEL: name the model first, then {model} and other options of lm-eval")
    _need_lm_eval()
    given = _parse(context.args)
    given.model = "ultrafuser"
    kept = {name: value for name, value in (("dtype", dtype), ("quantise", quantise)) if value is not None}
    given.model_args = _model_args(model, only, revision, specialist_path) | kept | (given.model_args or {})
    from ultrafuser.cli.opening import quiet_libraries
    from ultrafuser.evaluation import harness

    if not given.config or given.device:  # lm-eval's default is cuda:0, whatever there is
        given.device = harness.choose_device(given.device)
    quiet_libraries()
    with tempfile.TemporaryDirectory(prefix="ultrafuser-lm-eval-") as folder:
        local = {} if data is None else harness.write_tasks(data, folder)
        given.include_path = [path for path in (given.include_path, folder if local else None) if path] or None
        if not given.tasks and not given.config:
            raise ValueError(f"--tasks: name at least one{'; --data offers ' if local else ''}{', '.join(local)}")
        harness.register()
        results = _run(given, quiet=json_path == "-")
    if results:  # under `accelerate launch` the first process has them
        write_json(json_path, {"model": model} | {name: part for name, part in results.items() if name != "samples"})


def _need_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm-eval is not installed; run: pip install 'ultrafuser[lm-eval]'")


def _their_parser() -> Any:
    return importlib.import_module("lm_eval._cli.harness").HarnessCLI()._parser


def _parse(arguments: Sequence[str]) -> Namespace:
    """The options as lm-eval reads them. Raises ValueError with its own words where it refuses them."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            given: Namespace = _their_parser().parse_args(["run", *arguments])
    except SystemExit as error:
        reason = complaint.getvalue().strip().rpartition("error: ")[2]
        raise ValueError(f"{reason} (see: ultrafuser lm-eval --lm-eval-help)") from error
    if given.model is not None:
        raise ValueError(f"--model: {given.model!r} given, but the model is MODEL; for others run lm-eval itself")
    if "pretrained" in (given.model_args or {}):
        raise ValueError("--model_args: pretrained is given already, as MODEL")
    return given


def _model_args(
    model: str, only: str | None, revision: str | None, specialist_path: Sequence[str] | None
) -> dict[str, Any]:
    """What our own options say, as lm-eval's model arguments; MODEL is looked at before any long work."""
    from ultrafuser.evaluation import harness
    from ultrafuser.modeling.specialists import is_folder_like

    source = resolve_source(model)
    if revision is None and not is_folder_like(source):
        hub = "; a model on the Hub needs --revision too, for example --revision main" if model.count("/") == 1 else ""
        raise ValueError(f"MODEL: folder {model!r} does not exist{hub}")
    harness.locate(source, revision, only, "MODEL")
    arguments: dict[str, Any] = {"pretrained": source, "only": only, "revision": revision}
    if specialist_path:
        pairs = [pair.partition("=") for pair in specialist_path]
        for name, mark, folder in pairs:
            if not (name and mark and folder):
                raise ValueError(f"--specialist-path: {name + mark + folder!r} must read NAME=FOLDER")
        arguments["specialist_paths"] = {name: folder for name, _, folder in pairs}
    return {name: value for name, value in arguments.items() if value is not None}


def _run(given: Namespace, *, quiet: bool) -> dict[str, Any]:
    """Run lm-eval's own command; its results. With `quiet` its tables go to standard error.

    Raises ValueError with lm-eval's reason where it stops at a mistake of the user's.
    """
    utils = importlib.import_module("lm_eval.utils")
    utils.setup_logging()
    try:
        with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext(), _results() as results:
            given.func(given)
    except ValueError as error:
        if not str(error).startswith(NOT_FOUND):
            raise
        raise ValueError(_not_found(str(error).removeprefix(NOT_FOUND), given.include_path)) from error
    except (AssertionError, ImportError) as error:  # lm-eval's word for a setting that cannot work, or a missing extra
        if not str(error):
            raise
        raise ValueError(f"lm-eval: {error.args[0]}") from error
    return results


@contextlib.contextmanager
def _results() -> Iterator[dict[str, Any]]:
    """Filled with what `simple_evaluate` gives: lm-eval's command prints it and keeps it to itself."""
    evaluator: Any = importlib.import_module("lm_eval.evaluator")
    original = evaluator.simple_evaluate
    results: dict[str, Any] = {}

    def watched(*args: Any, **options: Any) -> Any:
        found = original(*args, **options)
        results.update(found or {})
        return found

    evaluator.simple_evaluate = watched
    try:
        yield results
    finally:
        evaluator.simple_evaluate = original


def _not_found(names: str, include_path: Sequence[str] | None) -> str:
    """The refusal of unknown tasks, with the nearest that there are."""
    known = importlib.import_module("lm_eval.tasks").TaskManager(include_path=include_path).all_tasks
    missing = re.split(r",\s*", names)
    hints = "".join(did_you_mean(name, known) for name in missing)
    wants_data = not include_path and any(name.startswith("ultrafuser") for name in missing)
    return f"--tasks: {names} not found{hints}{'; tasks named ultrafuser_... need --data DIR' if wants_data else ''}"
