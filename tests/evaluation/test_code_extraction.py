"""From answers to programs: fenced, bare, cut off, chatty, and hopeless ones."""

import ast

import pytest

from ultrafuser.evaluation.benchmarks.code_extraction import called_name, code_blocks, extract_program

PROMPT = '''import math
from typing import List


def helper(x):
    return math.sqrt(x)


def root_sum(values: List[float]) -> float:
    """The sum of the square roots."""
'''
BODY = "    total = 0.0\n    for value in values:\n        total += helper(value)\n    return total\n"
WHOLE = "def root_sum(values):\n" + BODY
HELPLESS = "def root_sum(values):\n    return sum(v ** 0.5 for v in values)\n"


def value(program: str, entry_point: str = "root_sum"):
    """What the program's function makes of 4 and 9."""
    namespace: dict = {}
    exec(program, namespace)
    return namespace[entry_point]([4.0, 9.0])


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{WHOLE}```",
        f"```\n{WHOLE}```",
        f"```py\n{WHOLE}\n```\nThat is all.",
        f"~~~python\n{WHOLE}~~~",
        f"Sure! Here it is:\n\n```Python\n{WHOLE}```\n\nIt adds the roots up.",
        f"```python\n{WHOLE}",  # the closing fence is missing
        f"```python\n{WHOLE}\nprint(root_sum([1.0,",  # cut off in an example
        f"[PYTHON]\n{WHOLE}[/PYTHON]",
        f"1. First:\n   ```python\n{''.join('   ' + line for line in WHOLE.splitlines(True))}   ```\n",
        f"Install it:\n```bash\npip install x\n```\nthen\n```python\n{WHOLE}```",
        f"```python\nimport math\n```\nand\n```python\n{WHOLE}```\nUse it so:\n```python\nprint(root_sum([1]))\n```",
        f"```python\n{PROMPT}{BODY}```",
        PROMPT + BODY,
        WHOLE,
        f"Here is the function:\n\n{WHOLE}\nIt uses the helper function from above.",
        f"from the task we see that helper exists.\n{WHOLE}",
        BODY,
        BODY.strip(),
        BODY.replace("    ", "\t"),
        BODY.replace("    ", "  "),
        f"```python\n{BODY}```",
        f"```\n{BODY.strip()}\n```",
        "```python\n" + "\n".join(line[4:] for line in BODY.splitlines()) + "\n```",
        f"The body is\n\n{BODY}",
        f"{BODY}\n\nThis goes through all values.",
        f"```python\nfrom __future__ import annotations\n{WHOLE}```",
        f"```python\r\n{WHOLE}```".replace("\n", "\r\n"),
        f"```python\n{WHOLE}```\nA shorter way:\n```python\ndef root_sum(values):\n    return 0\n```",
        f"```python\nclass Other:\n    def root_sum(self): ...\n```\n```python\n{WHOLE}```",
        "```python\nroot_sum = lambda values: sum(map(helper, values))\n```",
    ],
)
def test_the_function_is_found_with_what_the_prompt_holds_for_it(answer):
    assert value(extract_program(answer, "root_sum", PROMPT)) == 5.0


def test_an_earlier_block_of_helpers_comes_along():
    answer = f"First a helper:\n```python\ndef own(x):\n    return x ** 0.5\n```\nThen:\n```python\n{HELPLESS}```"
    assert "def own" in extract_program(answer, "root_sum")
    example = f"```python\nprint('not a definition')\n```\n```python\n{HELPLESS}```"
    assert "print" not in extract_program(example, "root_sum")


def test_what_the_answer_defines_wins_over_the_prompt():
    answer = (
        "```python\ndef helper(x):\n    return 1.0\n\n\ndef root_sum(values):\n    return sum(map(helper, values))\n```"
    )
    assert value(extract_program(answer, "root_sum", PROMPT)) == 2.0


@pytest.mark.parametrize(
    "answer",
    ["", "   \n", "I cannot do that, sorry.", "```\n```", "```python\n\n```", "# nothing\n", "\0", "}{", "()" * 5000],
)
def test_nothing_usable_gives_no_function_that_works(answer):
    program = extract_program(answer, "root_sum", PROMPT)
    if program:
        namespace: dict = {}
        exec(program, namespace)
        assert namespace["root_sum"]([4.0]) is None
    assert extract_program("", "root_sum", PROMPT) == ""
    assert extract_program("I cannot do that, sorry.", "root_sum", PROMPT) == ""


def test_code_that_does_not_compile_is_kept_for_its_error():
    assert "retrun" in extract_program("```python\ndef root_sum(values):\n    retrun 1\n```", "root_sum", PROMPT)
    assert "other" in extract_program("```python\ndef other(values):\n    return 1\n```", "root_sum")


def test_without_a_prompt_bare_code_is_found_too():
    assert value(extract_program(HELPLESS, "root_sum")) == 5.0
    assert value(extract_program(f"Sure:\n{HELPLESS}\nDone.", "root_sum")) == 5.0
    assert extract_program("No code at all.", "root_sum") == ""
    assert value(extract_program(HELPLESS, None)) == 5.0


def test_a_context_without_a_docstring_takes_a_body():
    context = "import math\n\n\ndef root_sum(values):\n"
    assert value(extract_program("return sum(map(math.sqrt, values))", "root_sum", context)) == 5.0
    assert extract_program("", "root_sum", context) == ""


def test_blocks_of_other_languages_are_no_code():
    assert code_blocks("```json\n{}\n```\n```python\nx = 1\n```\n```text\nout\n```") == ["x = 1\n"]


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("assert add(1, 2) == 3", "add"),
        ("assert set(similar((3, 4), (5,))) == {4}", "similar"),
        ("assert math.isclose(area(2), 12.5, rel_tol=0.001)", "area"),
        ("assert not is_odd(2)", "is_odd"),
        ("assert 1 == 1", None),
        ("assert (", None),
    ],
)
def test_the_name_that_an_assertion_calls(test, name):
    assert called_name(test) == name


@pytest.mark.parametrize(
    "line",
    ["x = (1,", "def root_sum(values):\n  return (", "    x = [1,", "from here on", "if x:", '"' * 3, "\\", "```"],
)
def test_answers_that_repeat_themselves_are_done_with_soon(line, monkeypatch):
    parse, calls = ast.parse, []
    monkeypatch.setattr(ast, "parse", lambda text: calls.append(text) or parse(text))
    answer = f"{line}\n" * 500 + "def root_sum(values):\n    return (\n"
    extract_program(answer, "root_sum", PROMPT)
    assert len(calls) < 2000  # every end from every start would be 125,000
