"""From a chat answer to a program: which part of the text is code, and what of the task has to stand before it."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Callable

__all__ = ["called_name", "code_blocks", "extract_program"]

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<language>[\w+#.-]*)[^\n]*\n(?P<code>.*?)"
    r"(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)",  # an answer that is cut off ends its block too
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = {"", "python", "python3", "py", "py3"}
_BEGINS_CODE = re.compile(r"(?:from|import|def|async def|class)\s|@\w|[A-Za-z_]\w*\s*=\s*\S")
_FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.MULTILINE)
_MOST_TRIES = 40  # an answer gone mad must not hold up the others
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)


def extract_program(answer: str, entry_point: str | None, prompt: str = "") -> str:
    """The program in `answer` that defines `entry_point`; "" where there is no code.

    `prompt` is the beginning of a program that ends in the function to complete: an answer that is only the body goes
    behind it, and one that defines the function gets what stands before it in `prompt` (imports, helpers). Fenced code
    that does not compile is given as it is, so that its error tells what was wrong with it.
    """
    blocks = code_blocks(answer)
    if not blocks:
        found = _unfenced(answer, entry_point)
        return _join(_before(prompt, entry_point), found) if found else _completed(prompt, answer)
    for index, block in enumerate(blocks):
        if _defines(block, entry_point):
            helpers = [text for text in blocks[:index] if _only_definitions(text)]
            return _join(_before(prompt, entry_point), *helpers, _beginning(block, entry_point) or block)
    if not prompt:
        return _join(*blocks)
    return next(filter(None, (_completed(prompt, block) for block in blocks)), blocks[0])


def code_blocks(answer: str) -> list[str]:
    """What stands between fences, Python or unnamed, in order; the last fence may be missing."""
    answer = answer.replace("\r\n", "\n").replace("[PYTHON]", "\n```python\n").replace("[/PYTHON]", "\n```\n")
    found = []
    for match in _FENCE.finditer(answer):
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        if match["language"].lower() in _LANGUAGES and code.strip():
            found.append(code)
    return found


def called_name(test: str) -> str | None:
    """The function that an assertion is about: the first call by name of something that is no builtin."""
    tree = _parsed(test)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not hasattr(builtins, node.func.id):
            return node.func.id
    return None


def _unfenced(answer: str, entry_point: str | None) -> str | None:
    """Code among prose without fences: the first lines that compile and define the function."""
    lines = answer.replace("\r\n", "\n").split("\n")
    starts = [number for number, line in enumerate(lines) if _BEGINS_CODE.match(line)]
    for start in starts[:_MOST_TRIES] if _defines(answer, entry_point) else ():
        found = _beginning("\n".join(lines[start:]), entry_point)
        if found is not None:
            return found
    return None


def _completed(prompt: str, text: str) -> str:
    """`prompt` with a body behind it, indented so that it fits; "" where nothing in `text` can be one."""
    lines = text.replace("\r\n", "\n").split("\n")
    starts = [number for number, line in enumerate(lines) if line.strip()][:1]
    starts += [number for number, line in enumerate(lines) if line.startswith((" ", "\t")) and line.strip()][:1]
    before = prompt.rstrip() + "\n"
    for start in starts if prompt else ():
        body = lines[start:]
        # as it is, or all of it or only its first line lost its indent
        forms = [_as_it_is, _indented] if body[0].startswith((" ", "\t")) else [_indented, _first_line_indented]
        ends = [_longest(body, form, before) for form in forms]
        end = max(ends)
        if any(line.strip() and not line.strip().startswith("#") for line in body[:end]):
            return before + forms[ends.index(end)](body[:end]) + "\n"
    return ""


def _as_it_is(lines: list[str]) -> str:
    return "\n".join(lines)


def _indented(lines: list[str]) -> str:
    return textwrap.indent(textwrap.dedent("\n".join(lines)), " " * 4)


def _first_line_indented(lines: list[str]) -> str:
    return " " * 4 + "\n".join(lines)


def _beginning(text: str, entry_point: str | None) -> str | None:
    """As much of the text as compiles, if that defines the function."""
    lines = text.split("\n")
    found = _as_it_is(lines[: _longest(lines, _as_it_is)])
    return found if _defines(found, entry_point) else None


def _longest(lines: list[str], form: Callable[[list[str]], str], before: str = "") -> int:
    """How many of the lines compile, at most, when they are put in `form` behind the text `before`.

    Nothing that holds the line of a syntax error compiles, so the search goes on before that line.
    """
    end = len(lines)
    for _ in range(_MOST_TRIES):
        wrong = _error_line(before + form(lines[:end])) if end else None
        if wrong is None:
            return end
        end = max(0, min(end - 1, wrong - 1 - before.count("\n")))
    return 0


def _defines(text: str, entry_point: str | None) -> bool:
    if entry_point is None:
        return "def " in text
    name = re.escape(entry_point)
    return re.search(rf"^(?:(?:async\s+)?def\s+{name}\b|class\s+{name}\b|{name}\s*=)", text, re.MULTILINE) is not None


def _only_definitions(text: str) -> bool:
    tree = _parsed(text)
    return tree is not None and all(isinstance(statement, _DEFINITIONS) for statement in tree.body)


def _before(prompt: str, entry_point: str | None) -> str:
    """What stands in `prompt` before the function to complete."""
    name = re.escape(entry_point or "")
    found = re.search(rf"^(?:@[^\n]*\n)*(?:async\s+)?def\s+{name}\b", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""


def _join(*parts: str) -> str:
    """The parts one after another, with imports from the future first, as Python wants them."""
    whole = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    future = "".join(line.rstrip("\n") + "\n" for line in _FUTURE.findall(whole))
    return future + _FUTURE.sub("", whole).lstrip("\n") + "\n" if whole else ""


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in strings: the program's own matter
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _error_line(text: str) -> int | None:
    """The line of the first syntax error, None where there is none; 0 where no part of the text can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except SyntaxError as error:
            return error.lineno or 0
        except (ValueError, RecursionError, MemoryError):
            return 0
    return None
