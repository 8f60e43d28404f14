"""From a chat answer to a program: which part of the text is code, and what of the task has to stand before it."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Iterator

__all__ = ["called_name", "code_blocks", "extract_program"]

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<language>[\w+#.-]*)[^\n]*\n(?P<code>.*?)"
    r"(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)",  # an answer that is cut off ends its block too
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = {"", "python", "python3", "py", "py3"}
_BEGINS_CODE = re.compile(r"(?:from|import|def|async def|class)\s|@\w|[A-Za-z_]\w*\s*=\s*\S")
_FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.MULTILINE)
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
            whole = next(_beginnings(block, entry_point), block)
            return _join(_before(prompt, entry_point), *helpers, whole)
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
    for start, line in enumerate(lines):
        if _BEGINS_CODE.match(line):
            found = next(_beginnings("\n".join(lines[start:]), entry_point), None)
            if found is not None:
                return found
    return None


def _completed(prompt: str, text: str) -> str:
    """`prompt` with a body behind it, indented so that it fits; "" where nothing in `text` can be one."""
    lines = text.replace("\r\n", "\n").split("\n")
    starts = [number for number, line in enumerate(lines) if line.strip()][:1]
    starts += [number for number, line in enumerate(lines) if line.startswith((" ", "\t")) and line.strip()][:1]
    for start in starts if prompt else ():
        for end in range(len(lines), start, -1):
            body = "\n".join(lines[start:end])
            if not any(line.strip() and not line.strip().startswith("#") for line in lines[start:end]):
                break
            if body.startswith((" ", "\t")):
                forms = [body, textwrap.indent(textwrap.dedent(body), " " * 4)]
            else:
                forms = [
                    textwrap.indent(body, " " * 4),
                    " " * 4 + body,
                ]  # all of it, or its first line, lost its indent
            for form in forms:
                whole = f"{prompt.rstrip()}\n{form}\n"
                if _parsed(whole):
                    return whole
    return ""


def _beginnings(text: str, entry_point: str | None) -> Iterator[str]:
    """What compiles of the text and defines the function, the longest first."""
    lines = text.split("\n")
    for end in range(len(lines), 0, -1):
        beginning = "\n".join(lines[:end])
        if not _defines(beginning, entry_point):
            return
        if _parsed(beginning):
            yield beginning


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
