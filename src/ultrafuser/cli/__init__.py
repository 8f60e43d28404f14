"""The `ultrafuser` command: collects the verbs and turns a user's mistake into one line and exit status 2."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from ultrafuser.cli import (
    baseline_verb,
    demo_verb,
    eval_verbs,
    lm_eval_verb,
    recipe_verbs,
    reproduce_verb,
    set_verbs,
    specialise_verb,
    synth_verbs,
    talk_verbs,
    train_verb,
    zoo_verbs,
)
from ultrafuser.cli.common import say_error

__all__ = ["build_app", "main"]

VERB_MODULES = (
    demo_verb,
    recipe_verbs,
    train_verb,
    specialise_verb,
    baseline_verb,
    talk_verbs,
    eval_verbs,
    lm_eval_verb,
    set_verbs,
    reproduce_verb,
    synth_verbs,
    zoo_verbs,
)  # in the order of --help
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException; its module depends on typer's version
EXIT_USER_ERROR = 2


class ErrorLineGroup(TyperGroup):
    """A command group that prints `error: ...` for ValueError, OSError and wrong usage, never a traceback.

    ULTRAFUSER_DEBUG=1 lets the exception through.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            result = super().main(*args, **(extra | {"standalone_mode": False}))
        except typer.Abort:
            sys.exit(130)
        except USAGE_ERROR as error:
            context = getattr(error, "ctx", None)
            hint = f" (see: {context.command_path} --help)" if context is not None else ""
            say_error(f"{error.format_message()}{hint}")  # type: ignore[attr-defined]
            sys.exit(EXIT_USER_ERROR)
        except (ValueError, OSError) as error:
            if os.environ.get("ULTRAFUSER_DEBUG"):
                raise
            say_error(_reason(error))
            sys.exit(EXIT_USER_ERROR)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError" or os.environ.get("ULTRAFUSER_DEBUG"):
                raise
            reason = str(error).splitlines()[0]
            say_error(f"the device is out of memory ({reason}); try --device cpu or smaller batches")
            sys.exit(EXIT_USER_ERROR)
        sys.exit(result if isinstance(result, int) else 0)


def _reason(error: Exception) -> str:
    """What an exception says, without the number that Python puts before the system's own errors."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _show_version(wanted: bool) -> None:
    if wanted:
        from ultrafuser import __version__

        typer.echo(f"ultrafuser {__version__}")
        raise typer.Exit()


def _root(
    version: bool = typer.Option(False, "--version", help="Show the version.", is_eager=True, callback=_show_version),
) -> None:
    """Fuse specialised language models token by token with a small trained gate.

    New here? `ultrafuser demo` fuses the three specialists that come with the package and leaves the result in
    runs/demo/fused; then `ultrafuser chat runs/demo/fused`.
    """
    # Transformers imports torchao where it is installed, which tells of kernels for other machines' graphics cards.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def build_app() -> typer.Typer:
    """The typer application with every verb registered; imports neither torch nor transformers."""
    app = typer.Typer(
        name="ultrafuser",
        cls=ErrorLineGroup,
        no_args_is_help=False,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for module in VERB_MODULES:
        module.register(app)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; `argv` without the program's name, `sys.argv` when None."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    build_app()(args=arguments or ["--help"], prog_name="ultrafuser")
