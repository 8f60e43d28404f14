"""The letter an answer settles on."""

import pytest

from ultrafuser.evaluation.choice_letters import final_letter

ANSWERS = [
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("**B**", "B"),
    ("B) 12", "B"),
    ("(B) 12 km", "B"),
    ("B: 12", "B"),
    ("B because 12 is even", "B"),
    ("\\(B\\)", "B"),
    ("\\boxed{B}", "B"),
    ("$\\boxed{\\textbf{(B) }12}$", "B"),
    ("it is 12, so \\boxed{12}. The answer is B.", "B"),
    ("The answer is (B).", "B"),
    ("The answer is $\\mathbf{B}$.", "B"),
    ("the final answer is b.", "B"),
    ("**Answer:** (B) 300", "B"),
    ("Answer : B", "B"),
    ("The answer is:\n\n**B**", "B"),
    ("The correct option is therefore B) 300.", "B"),
    ("The answer is 12, which is option B.", "B"),
    ("Option B is correct, choice A is not.", "B"),
    ("(B) is the right answer", "B"),
    ("I choose option B.", "B"),
    ("Both ways lead to 12. Correct answer B", "B"),
    ("Ans: B", "B"),
    ("Answer A is too small.", None),
    ("x is 12, which corresponds to option B.", "B"),
    ("The value is 12, matching choice (B) above.", "B"),
    ("x = 12, so (B).", "B"),
    ("Therefore, B", "B"),
    ("The answer is B because A and C are too small.", "B"),
    ("The answer is (B), and (A) is wrong.", "B"),
    ("Let A = 3 and B = 4. The answer is C.", "C"),
    ("A car goes 30 km in an hour. The answer is (B).", "B"),
    ("(A) 1\n(B) 2\n(C) 3\n\nB", "B"),
    ("The answer is A.\nNo, that forgets the tax.\nThe answer is B.", "B"),
    ("Answer: E) None of these", "E"),
    ("", None),
    ("I do not know", None),
    ("12", None),
    ("The answer is 12.", None),
    ("The answer is a number.", None),
    ("A car goes 30 km.", None),
    ("A = 3", None),
    ("F", None),
    ("The answer is not (A).", None),
    ("(A) 1\n(B) 2\n(C) 3", None),
    ("A\nB", None),
    ("The answer is A or B.", None),
    ("The answer is (A) or (B)", None),
    ("The answer is A and B.", None),
    ("Answer: A, C", None),
    ("The answer is B) 12 or C) 15", None),
    ("The answer is A. The answer is B.", None),
    ("\\boxed{A, B}", None),
]


@pytest.mark.parametrize(("answer", "letter"), ANSWERS)
def test_letter(answer, letter):
    assert final_letter(answer)[0] == letter


def test_two_letters_are_named_in_the_note():
    assert final_letter("The answer is A or B.") == (None, "the answer stated last names A and B")


def test_long_and_odd_texts_end():
    for part in (
        "(",
        "answer is ",
        "A or ",
        "\\boxed{",
        "A\n",
        "(A) is right\n",
        "$",
        "= ",
        " ",
        "\n",
        "option ",
        "**A",
    ):
        assert final_letter(part * (20000 // len(part)))[0] in (None, "A")
