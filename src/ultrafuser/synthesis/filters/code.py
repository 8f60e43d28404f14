"""Code in answers: does it parse, and where it carries tests of its own, do they pass in the sandbox?"""

from __future__ import annotations

import ast
import json
import re
import textwrap
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ultrafuser.synthesis.filters.filter import (
    ANSWERS,
    Filter,
    FilterOptions,
    Verdicts,
    Work,
    chunks,
    is_answer,
    text_of,
)
from ultrafuser.synthesis.records import Record
from ultrafuser.synthesis.spec import Spec

if TYPE_CHECKING:
    from ultrafuser.evaluation.sandbox import Outcome, Program, Sandbox

__all__ = ["CODE", "fenced", "self_testing", "unparsed"]

BATCH = 64  # programs that are handed to the sandbox together
PYTHON = ("python", "python3", "py", "py3")
_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<language>[\w+#.-]*)[^\n]*\n(?P<code>.*?)"
    r"(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_SESSION = re.compile(r"\s*(?:>>>|In \[\d+\]:|\$ |%)")
_TELLS_NOTHING = ("ModuleNotFoundError", "ImportError", "NameError", "EOFError", "FileNotFoundError", "SystemExit")


class CodeOptions(FilterOptions):
    """Options of code."""

    run: bool = True
    """Run Python that ends in assertions or test functions in the sandbox, and drop what fails them."""
    seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Longest time on a processor of one program."""
    required: bool = False
    """Drop responses without any fenced code."""


def fenced(text: str) -> list[tuple[str, str]]:
    """Language (lower case, may be empty) and content of every fenced block."""
    found = []
    for match in _FENCE.finditer(text.replace("\r\n", "\n")):
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        if code.strip():
            found.append((match["language"].lower(), code))
    return found


def unparsed(language: str, code: str) -> str | None:
    """What is wrong with a block; None where nothing is, or where it is in a language that is not checked.

    Checked are Python (ast), JSON and TOML; sessions of an interpreter are not.
    """
    try:
        if language in PYTHON and not _SESSION.match(code):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd escapes in strings
                ast.parse(textwrap.dedent(code))
        elif language == "json" and code.lstrip().startswith(("{", "[")):  # others show a part of something
            json.loads(code)
        elif language == "toml":
            tomllib.loads(code)
    except SyntaxError as error:
        return f"{error.msg}, line {error.lineno}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"[:120]
    return None


def self_testing(text: str) -> Program | None:
    """The Python of an answer as one program, where it tests itself: by assertions, or functions named test_...

    Test functions that take no argument are called behind it. None where there is nothing to test by, and where it
    waits for input.
    """
    from ultrafuser.evaluation.sandbox import Program

    blocks = [textwrap.dedent(code) for language, code in fenced(text) if language in PYTHON]
    blocks = [code for code in blocks if not _SESSION.match(code) and unparsed("python", code) is None]
    source = "\n\n".join(blocks)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if any(isinstance(node, ast.Call) and _name(node.func) == "input" for node in ast.walk(tree)):
        return None
    calls = [f"{one.name}()" for one in tree.body if isinstance(one, ast.FunctionDef) and _is_test(one)]
    asserts = any(isinstance(node, ast.Assert) for statement in tree.body for node in _outside(statement))
    return Program(source, "\n".join(calls)) if calls or asserts else None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _is_test(function: ast.FunctionDef) -> bool:
    arguments = function.args
    takes = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return (
        function.name.startswith("test_") and not takes and any(isinstance(n, ast.Assert) for n in ast.walk(function))
    )


def _outside(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and what is in it, functions and classes left out: what runs when the program does."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _outside(child)


def _judge(work: Work) -> Verdicts:
    sandbox = _sandbox(work.options) if work.options.run else None
    try:
        for records in chunks(work.records(), BATCH):
            verdicts = dict(_parse(records, work))
            verdicts |= _run([r for r in records if r.id not in verdicts and is_answer(r)], sandbox)
            yield from ((record.id, verdicts[record.id]) for record in records if record.id in verdicts)
    finally:
        if sandbox is not None:
            sandbox.close()


def _parse(records: Sequence[Record], work: Work) -> Verdicts:
    for record in records:
        if not is_answer(record):
            continue
        blocks = fenced(text_of(record))
        wrong = next((f"{lang}: {told}" for lang, code in blocks if (told := unparsed(lang, code))), None)
        if wrong is not None:
            yield record.id, f"code does not parse: {wrong}"
        elif work.options.required and not blocks and record.step == "responses":
            yield record.id, "no code in a fence"


def _run(records: Sequence[Record], sandbox: Sandbox | None) -> dict[str, str]:
    programs = {record.id: program for record in records if (program := self_testing(text_of(record)))}
    if sandbox is None or not programs:
        return {}
    outcomes = zip(programs, sandbox.run(list(programs.values())), strict=True)
    return {identity: reason for identity, outcome in outcomes if (reason := _failure(outcome))}


def _failure(outcome: Outcome) -> str | None:
    """Why a program is dropped. One that lacks a package, a file, or code shown in the request tells nothing."""
    if outcome.passed or outcome.error.startswith(_TELLS_NOTHING):
        return None
    said = outcome.error if outcome.status == "failed" else f"{outcome.status}, {outcome.error}"
    return f"its own tests fail: {said[:120]}"


def _sandbox(options: Any) -> Sandbox:
    from ultrafuser.evaluation.sandbox import Limits, Sandbox

    return Sandbox(limits=Limits(seconds=2 * options.seconds, cpu_seconds=options.seconds))


def _ready(spec: Spec, options: CodeOptions) -> None:
    if options.run:
        try:
            _sandbox(options).close()
        except ValueError as error:
            raise ValueError(f"run: {error}; or set run to false, and code is only parsed") from None


CODE = Filter(
    name="code",
    summary="has code that does not parse, or that fails its own tests",
    steps=ANSWERS,
    judge=_judge,
    options=CodeOptions,
    by_checks=True,
    ready=_ready,
)
