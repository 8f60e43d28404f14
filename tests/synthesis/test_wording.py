"""The rules of thumb: what they take for a refusal, a text cut off, a request that leans on something."""

import pytest

from ultrafuser.synthesis.filters.code import fenced, self_testing, unparsed
from ultrafuser.synthesis.filters.cut_off import cut_off
from ultrafuser.synthesis.filters.leaning import leans_on
from ultrafuser.synthesis.filters.math import final_answer
from ultrafuser.synthesis.filters.refusals import refused


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I'm sorry, but I can't help with that.", "refuses"),
        ("Unfortunately, I am unable to assist you with this request.", "refuses"),
        ("I apologise, but we cannot provide such information.", "refuses"),
        ("That goes against my guidelines.", "refuses"),
        ("As an AI language model, I don't have a favourite, but many like tea.", "speaks of itself as a model"),
        ("I don’t have access to current prices.", "speaks of itself as a model"),
        ("It looks like you haven't included the code.", "asks back"),
        ("Sure! Please provide the text that I should shorten.", "asks back"),
        ("Could you clarify which of the two you mean?", "asks back"),
        ("I'm sorry, I cannot make it to the party on Friday.", None),
        ("Dear Ann, unfortunately the train was late.", None),
        ("There are many reasons, which include cost and time.", None),
        ("A robot cannot help itself.", None),
        ("As an assistant teacher I helped pupils for two years.", None),
        ("There is no question that this includes birds.", None),
    ],
)
def test_refusals(text, kind):
    found = refused(text, answer=True)
    assert (found and found.partition(":")[0]) == kind


def test_a_request_may_speak_of_assistants():
    assert refused("As an AI ethics student I don't have a topic; suggest three.", answer=False) is None
    assert refused("I'm sorry, but I can't write such a request.", answer=False)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Like so:\n```python\nx = 1", "code fence is not closed"),
        ("So\n$$\nx = 1", "formula is not closed"),
        ("\\begin{align}\nx", "formula is not closed"),
        ("First.\n1. One\n2.", "list item without text"),
        ("It rained. We went into the", "last sentence breaks off"),
        ("It rained. We took coats, hats,", "last sentence breaks off"),
        ("It rained on us (and on all of them", "bracket is not closed"),
        ("It rained. Then we all went home and had some tea with", "last sentence has no end"),
        ("Do this:\n- Wash it.\n- Dry it.\n- Fold it and put", "last sentence has no end"),
        ("It rained. These are the reasons:", "announces what does not come"),
        ("2.", None),
        ("Paris", None),
        ("Dear Ann,\nsee you soon.\n\nYours,", None),
        ("Do this:\n- wash\n- dry", None),
        ("Like so:\n```python\nx = [\n```", None),
        ("It holds. So x = 3\n\n$$x = 3$$", None),
        ("We had fun. Come along and see it for yourself #summer", None),
        ("It works. 😀", None),
    ],
)
def test_texts_cut_off(text, kind):
    found = cut_off(text, sentences=True)
    assert (found and found.partition(":")[0]) == kind


@pytest.mark.parametrize(
    "text",
    [
        "Fix the above code.",
        "Explain what the code above does.",
        "Summarise the following text in three sentences.",
        "Which verbs occur in the passage below?",
        "From the passage provided, list all kings.",
        "What is the area of the triangle shown in the figure?",
        "Describe the attached picture.",
        "Give another solution to the previous problem.",
        "Translate this sentence: [insert sentence here]",
        "Summarise the given text.",
    ],
)
def test_requests_that_lean_on_something(text):
    assert leans_on(text)


@pytest.mark.parametrize(
    "text",
    [
        "Fix this code: `def f(x) return x`.",
        "Summarise the following text: The sea is salty because rivers bring salt into it.",
        "What does the following code print?\n\nx = 3",
        "Which of the following numbers is prime: 4, 6, 7?",
        "Write a function that returns the largest number of the given list.",
        "Tom has 5 apples and buys 7 more. Using the above information, how many has he?",
        "Draw up a table of the planets and describe each of them.",
        "Write an e-mail template with gaps such as [insert name].",
        "Explain how to read the graph of a function.",
        "Write a short text about the sea.",
    ],
)
def test_requests_that_stand_alone(text):
    assert leans_on(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 3.\nAnswer: $12$ km", "12 km"),
        ("**Answer:** 9:45", "9:45"),
        ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("work\n#### 72", "72"),
        ("Answer: 3\nNo, wait.\nAnswer: 4", "4"),
        ("The answer is 7.", "7"),
        ("It depends.", None),
    ],
)
def test_final_answers(text, answer):
    assert final_answer(text) == answer


def test_code_that_tests_itself():
    inside = "```python\ndef f():\n    assert True\n```"
    assert self_testing(inside) is None, "an assertion in a function is not run by itself"
    assert self_testing("```python\nassert 1\n```").source == "assert 1\n"
    assert self_testing("```python\ndef test_a():\n    assert 1\n```").tests == "test_a()"
    assert fenced("1. So:\n   ```py\n   x = 1\n   ```") == [("py", "x = 1\n")]
    assert unparsed("json", '"scripts": {}') is None, "a part of something is not judged"
