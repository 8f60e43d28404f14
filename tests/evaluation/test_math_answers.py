"""What counts as a right mathematical answer, in hand-worked cases, and that no answer can hang or break the check."""

import subprocess
import sys
import threading

import pytest

from ultrafuser.evaluation.math_answers import Checked, MathChecker

NUMBERS = [  # reference, answer, right, what is extracted
    ("18", "18", True, "18"),
    ("18", "The answer is 18.", True, "18"),
    ("18", "The answer is 17.", False, "17"),
    ("18", "She sells 9 * 2 = 18 eggs a day.\n#### 18", True, "18"),
    ("18", "It is 3 + 15 = <<3+15=18>>18 dollars", True, "18"),
    ("18", "#### $18 dollars", True, "18"),
    ("18", "\\boxed{18}", True, "18"),
    ("18", "$\\boxed{18 \\text{ eggs}}$", True, "18"),
    ("18", "\\[ 9 \\times 2 = 18 \\text{ eggs} \\]", True, None),
    ("18", "**Answer:** **18** apples", True, "18"),
    ("18", "Answer:18", True, "18"),
    ("18", "The answer is (18).", True, "18"),
    ("18", "The answer is 18.00", True, "18.00"),
    ("18", "The final answer is:\n\n$18$", True, "18"),
    ("18", "The answer is 9 * 2 = 18 dollars.", True, None),
    ("18", "The answer is 18. This is so because 3 * 4 = 12 and 12 + 6 = 18, not 20.", True, "18"),
    ("18", "To answer this, add 3 + 4 = 7 first.\nThen 7 + 11 = 18 apples are left.", True, "18"),
    ("18", "The answer is 18. Wait.\nThe answer is 20.", False, "20"),
    ("18", "\\boxed{17}, no, \\boxed{18}", True, "18"),
    ("18", "first \\boxed{18}, then it was cut off at \\boxed{2", True, "18"),
    ("18", "The answer is eighteen", False, None),
    ("18", "1. First there are 3 + 15 = 18 of them.\n2.", True, "18"),
    ("-18", "The answer is −18", True, "-18"),
    ("-18", "He ends with -$18", True, "-18"),
    ("18", "The answer is -18", False, "-18"),
    ("1234", "She pays $1,234 in all", True, "1234"),
    ("1234", "She pays 1234 dollars", True, "1234"),
    ("1234", "\\boxed{1{,}234}", True, None),
    ("1,234", "1 234", True, "1234"),
    ("1234", "The total is 1,235.", False, "1235"),
    ("50", "The answer is 50%", True, "50"),
    ("50", "\\boxed{50\\%}", True, None),
    ("0.5", "The answer is 1/2", True, "1/2"),
    ("0.5", "\\boxed{\\frac{1}{2}}", True, None),
    ("0.33", "The answer is 1/3", False, "1/3"),
    ("12", "He has $15 - $3 = $12 left", True, "12"),
    ("18", "The answer is 18 or 2", False, None),
    ("2", "The answer is 18 or 2", False, None),
    ("3", "The answer is 3 hours and 20 minutes", False, None),
    ("18", "The answer is 18 eggs, or 1.5 dozen", False, None),
    ("18", "The answer is 18, 7 more than 11.", True, "18"),
    ("18", "The answer is 18 eggs and 2 of them are brown.", True, "18"),
    ("18", "## Answer\n18 dollars, at 6 dollars on each of 3 days", True, "18"),
    ("18", "To find the answer\nadd 3 + 4 = 7 and 11, which is 18", True, "18"),
    ("18", "", False, None),
    ("18", " \n ", False, None),
    ("18", "I do not know.", False, None),
    ("18", "<<<>>> \\boxed{ #### $$ \\frac{", False, None),
]
FORMULAS = [  # reference, answer, right
    ("\\frac{1}{2}", "so $\\boxed{0.5}$", True),
    ("0.5", "\\boxed{\\frac12}", True),
    ("\\frac{1}{3}", "\\boxed{0.333}", False),
    ("\\frac{21}{2}", "The final answer is $x = \\frac{21}{2}$.", True),
    ("(-3,5)", "\\boxed{\\left(-3, 5\\right)}", True),
    ("(-3,5)", "\\boxed{[-3,5]}", False),
    ("(-3,5]", "\\boxed{(-3,5)}", False),
    ("(-\\infty,2)\\cup(3,\\infty)", "\\boxed{(3,\\infty) \\cup (-\\infty,2)}", True),
    ("(1,2)", "\\boxed{(2,1)}", False),
    ("(1,2,3)", "\\boxed{(1, 2, 3)}", True),
    ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", True),
    ("1,2", "\\boxed{2, 1}", True),
    ("1,2", "\\boxed{1}", False),
    ("1", "\\boxed{1,2}", False),
    ("1,2", "$\\boxed{1}$ and $\\boxed{2}$", True),
    ("5", "$\\boxed{5}$ or $\\boxed{6}$", False),
    ("5", "\\boxed{5} or \\boxed{6}", False),
    ("5", "I find \\boxed{6}. That forgets the sign of the second root.\n\nSo it is \\boxed{5}.", True),
    ("5", "\\boxed{x = 5}", True),
    ("x=5", "\\boxed{y=5}", False),
    ("5", "\\boxed{5\\text{ cm}}", True),
    ("5\\text{ cm}", "\\boxed{5}", True),
    ("90^\\circ", "\\boxed{90}", True),
    ("\\$5", "\\boxed{5}", True),
    ("50\\%", "\\boxed{50}", True),
    ("50\\%", "\\boxed{\\frac{1}{2}}", True),
    ("10,\\!000", "\\boxed{10{,}000}", True),
    ("\\text{Tuesday}", "\\boxed{\\text{Tuesday}}", True),
    ("\\text{Tuesday}", "\\boxed{\\text{Friday}}", False),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\[\\boxed{\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}}\\]", True),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\boxed{\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}}", False),
    ("2\\sqrt{34}", "\\boxed{\\sqrt{136}}", True),
    ("x^2+2x+1", "\\boxed{(x+1)^2}", True),
    ("3+4i", "\\boxed{4i+3}", True),
    ("-\\frac{3}{4}", "\\boxed{\\frac{-3}{4}}", True),
    ("\\pi", "\\boxed{3.14}", False),
    ("5", "the answer to part one is used: if $x = 3$ is the answer there, then $x + 2 = 5$", True),
    ("5", "\\boxed{}", False),
    ("5", "\\boxed{", False),
    ("5", "no idea", False),
    ("5", "", False),
]


@pytest.fixture(scope="module")
def checker():
    with MathChecker(workers=1) as one:
        yield one


def test_numbers(checker):
    found = checker.check([(gold, answer) for gold, answer, *_ in NUMBERS], "number")
    wrong = [(case, seen) for case, seen in zip(NUMBERS, found, strict=True) if seen.correct != case[2]]
    assert wrong == []
    for (_, answer, right, extracted), seen in zip(NUMBERS, found, strict=True):
        if extracted is not None:
            assert seen.extracted == extracted, answer
        elif not right:
            assert seen.extracted is None, answer
            assert seen.note, answer


def test_formulas(checker):
    found = checker.check([(gold, answer) for gold, answer, _ in FORMULAS], "latex")
    wrong = [(case, seen) for case, seen in zip(FORMULAS, found, strict=True) if seen.correct != case[2]]
    assert wrong == []


def test_two_answers_are_none_and_the_note_says_so(checker):
    (seen,) = checker.check([("18", "The answer is 18 or 2")], "number")
    assert seen == Checked(False, None, "two answers: 18 or 2")


def test_a_reference_that_cannot_be_read_is_noted(checker):
    (seen,) = checker.check([("?", "18")], "number")
    assert not seen.correct
    assert "reference answer '?'" in seen.note


@pytest.mark.parametrize("kind", ["number", "latex"])
def test_answers_made_to_break_the_check(checker, kind):
    """Deep nesting, surrogates, control characters, endless repetition: wrong or right, never an exception."""
    answers = ["$" * 3000, "\\boxed{" * 500, "a=b " * 2000, "\x00\ud800 \x1b[2J", "answer is " * 2000, "<<" * 3000]
    found = checker.check([("5", answer) for answer in answers], kind)
    assert [seen.correct for seen in found] == [False] * len(answers)


def test_a_worker_that_hangs_is_replaced():
    with MathChecker(workers=1, seconds=60.0) as checker:
        assert checker.check([("5", "\\boxed{5}")], "latex")[0].correct
        first = checker._started[0]
        checker.seconds = 2.0  # below math-verify's own limit
        (hung,) = checker.check([("5", "\\boxed{1000000000!}")], "latex")
        checker.seconds = 60.0
        assert not hung.correct
        assert "within 2 s" in hung.note
        assert checker.check([("5", "\\boxed{5}")], "latex")[0].correct
        assert first not in checker._started
        assert first._process.returncode is not None


def test_a_worker_that_was_killed_is_replaced():
    with MathChecker(workers=1) as checker:
        assert checker.check([("5", "5")], "number")[0].correct
        checker._started[0]._process.kill()
        checker._started[0]._process.wait()
        assert not checker.check([("5", "5")], "number")[0].correct
        assert checker.check([("5", "5")], "number")[0].correct


def test_from_several_threads_at_once_and_in_order():
    """math-verify itself refuses to run in threads."""
    cases = [(str(i), f"The answer is {i + i % 2}.") for i in range(30)]
    found = {}
    with MathChecker(workers=2) as checker:
        threads = [
            threading.Thread(target=lambda n=n: found.update({n: checker.check(cases, "number")})) for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = [i % 2 == 0 for i in range(30)]
    assert [[seen.correct for seen in found[n]] for n in range(2)] == [expected, expected]


def test_from_a_script_without_a_main_guard(tmp_path):
    """multiprocessing would run the script again in its workers."""
    script = tmp_path / "script.py"
    script.write_text(
        "from ultrafuser.evaluation.math_answers import MathChecker\n"
        "print(MathChecker(workers=1).check([('5', '5')], 'number')[0].correct)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"


def test_workers_start_late_and_end_with_close():
    checker = MathChecker(workers=1)
    assert checker.check([("B", "B")], "letter")[0].correct
    assert checker.check([], "number") == []
    assert checker.check([("5", "")], "number") == [Checked(False, None, "empty answer")]
    assert checker._started == []
    checker.check([("5", "5")], "number")
    (worker,) = checker._started
    checker.close()
    assert worker._process.returncode is not None
    assert checker.check([("5", "5")], "number")[0].correct  # it starts anew
    checker.close()


def test_errors_name_the_fix(monkeypatch):
    with pytest.raises(ValueError, match=r"kind: 'numbers' is not one of number, latex, letter"):
        MathChecker().check([("1", "1")], "numbers")
    with pytest.raises(ValueError, match="workers: 0"):
        MathChecker(workers=0)
    with pytest.raises(ValueError, match="seconds: 0"):
        MathChecker(seconds=0)
    monkeypatch.setattr("ultrafuser.evaluation.math_answers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ultrafuser\[eval\]'"):
        MathChecker().check([("1", "1")], "number")
