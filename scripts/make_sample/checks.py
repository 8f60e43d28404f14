"""Says what is wrong with a model's answer, or nothing; it knows prompts and answers, not where they came from."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from fractions import Fraction

from .arithmetic import equations, numbers
from .prompt_files import Prompt

FENCE = re.compile(r"```([A-Za-z+#]*)[ \t]*\n(.*?)```", re.DOTALL)
REFUSAL = re.compile(
    r"\bas an ai\b|language model|i'?m sorry, but i (?:can|am)|i cannot (?:assist|help)", re.IGNORECASE
)
_PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": " - ",
        "\u2026": "...",
        "\u00a0": " ",
        "\u00d7": "*",
        "\u2022": "-",
        "\u20ac": "EUR ",
    }
)


def tidy(answer: str) -> str:
    """Fancy quotes and dashes in ASCII, no spaces at line ends, at most one empty line in a row."""
    answer = "\n".join(line.rstrip() for line in answer.translate(_PLAIN).strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<=\S) {2,}- {2,}", " - ", answer))


def blocks(answer: str) -> list[tuple[str, str]]:
    """Fenced blocks as (language, source)."""
    return [(language.lower(), source) for language, source in FENCE.findall(answer)]


def prose_of(answer: str) -> str:
    """The answer without its fenced blocks."""
    return FENCE.sub("\n", answer)


def repeats(answer: str) -> bool:
    """Whether eight words in a row, or a long line of prose, occur twice."""
    words = prose_of(answer).lower().split()
    grams = [tuple(words[i : i + 8]) for i in range(len(words) - 7)]
    return len(grams) - len(set(grams)) > 2


def run_python(source: str, seconds: float = 10.0) -> str:
    """Runs source in a fresh interpreter inside an empty folder; '' when it went well, else the last line of the error.

    A time limit and an empty folder keep accidents small; this is no sandbox against malice.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", source],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=seconds,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"still running after {seconds} s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["failed without a message"])[-1]


def check_text(answer: str) -> str:
    """What is wrong with a prose answer."""
    words = len(answer.split())
    if not 20 <= words <= 190:
        return f"{words} words"
    if "```" in answer:
        return "code in a text answer"
    if re.search(r"\*\*|^#", answer, re.MULTILINE):
        return "markdown"
    if re.search(r"\[[A-Za-z][^\]]*\]|\bYour Name\b", answer):
        return "placeholder in brackets"
    return ""


def check_code(answer: str, tests: str) -> str:
    """What is wrong with a code answer: Python has to parse, shell too, and the tests have to pass."""
    found = blocks(answer)
    if answer.count("```") % 2 or ("```" in answer and not found):
        return "broken fence"
    if not found and (tests or "`" not in answer):
        return "no code"
    if len(answer.split()) > 190:
        return "too long"
    for language, source in found:
        problem = _parse_problem(language, source)
        if problem:
            return problem
    if tests:
        python = "\n\n".join(source for language, source in found if language in ("python", "py"))
        if not python:
            return "no Python block"
        return run_python(f"{python}\n\n{tests}\n")
    return ""


def _parse_problem(language: str, source: str) -> str:
    if not language:
        return "block without a language"
    if language in ("python", "py"):
        try:
            ast.parse(source)
        except SyntaxError as error:
            return f"does not parse: {error.msg}"
    if language in ("bash", "sh"):
        done = subprocess.run(["bash", "-n"], input=source, capture_output=True, text=True, check=False, timeout=10)
        return "shell does not parse" if done.returncode else ""
    return ""


def composite_parts(answer: str) -> tuple[list[str], list[tuple[str, bool]], list[str]]:
    """Prose paragraphs without equations, equations with whether they hold, and Python blocks of an answer."""
    outside = prose_of(answer)
    prose = [p for p in outside.split("\n\n") if len(p.split()) >= 20 and "=" not in p]
    return prose, equations(outside), [source for language, source in blocks(answer) if language == "python"]


def check_composite(answer: str, prompt: Prompt) -> str:
    """What is wrong with an answer that should hold prose, worked numbers and code."""
    prose, worked, code = composite_parts(answer)
    wrong = [equation for equation, holds in worked if not holds]
    missing = [value for value in prompt.answers if Fraction(value) not in numbers(prose_of(answer))]
    if re.search(r"\\\(|\\\[|\\frac|\$\$|\\text", answer):
        return "LaTeX"
    if re.search(r"\*\*[A-Z]|^#", prose_of(answer), re.MULTILINE):
        return "markdown"
    if not prose:
        return "no paragraph of prose"
    if not worked:
        return "no worked equation"
    if wrong:
        return f"wrong equation: {wrong[0]}"
    if missing:
        return f"result {missing[0]} missing"
    if len(code) != 1:
        return f"{len(code)} Python blocks"
    return _parse_problem("python", code[0]) or run_python(f"{code[0]}\n\n{prompt.tests}\n")


def problem_with(prompt: Prompt, answer: str, finish: str) -> str:
    """The first thing wrong with an answer, '' if nothing is."""
    if finish != "stop":
        return "cut off by the length limit"
    if not answer or REFUSAL.search(answer):
        return "refusal" if answer else "empty"
    if sum(ord(letter) > 127 for letter in answer) > 3:
        return "characters outside ASCII"
    if repeats(answer):
        return "repeats itself"
    if prompt.category == "text":
        return check_text(answer)
    if prompt.category == "code":
        return check_code(answer, prompt.tests)
    return check_composite(answer, prompt)
