"""Reading lists out of what models write."""

import pytest

from ultrafuser.synthesis.parsing import one_text, read_objects, read_texts

AB = ["Write a poem.", "Explain tides."]
FIELDS = ("name", "relevance", "use_case")
ONE = {"name": "Tides", "relevance": "They move ships.", "use_case": "A skipper plans."}


@pytest.mark.parametrize(
    "reply",
    [
        '["Write a poem.", "Explain tides."]',
        'Sure! Here you are:\n```json\n["Write a poem.", "Explain tides."]\n```\nAnything else?',
        '{"items": ["Write a poem.", "Explain tides."]}',
        '{"count": 2, "requests": ["Write a poem.", "Explain tides."]}',
        '[{"request": "Write a poem."}, {"request": "Explain tides."}]',
        '[{"id": 1, "instruction": "Write a poem."}, {"id": 2, "instruction": "Explain tides."}]',
        '{"request": "Write a poem."}\n{"request": "Explain tides."}',
        '["Write a poem.", "Explain tides.", "Say why the mo',
        '{"items": ["Write a poem.", "Explain tides.", "Say',
        "1. Write a poem.\n2. Explain tides.",
        "1) Write a poem.\n\n2) **Explain tides.**",
        '- "Write a poem."\n- "Explain tides."',
        "Here are two:\n* Request 1: Write a poem.\n* Request 2: Explain tides.",
        "<think>[1] first a list?</think>\n1. Write a poem.\n2. Explain tides.",
        '["Write a poem.", "Explain tides.", "write a poem."]',
    ],
)
def test_lists_of_texts(reply):
    assert read_texts(reply) == AB


def test_code_under_an_item_belongs_to_it():
    reply = "1. Find the mistake:\n```python\nx = [1,\n- 2]\n```\n2. Write a loop."
    assert read_texts(reply) == ["Find the mistake:\n```python\nx = [1,\n- 2]\n```", "Write a loop."]


def test_line_breaks_inside_json_texts_are_borne():
    assert read_texts('["Fix this:\nx = 1", "Explain tides."]') == ["Fix this:\nx = 1", "Explain tides."]


@pytest.mark.parametrize("reply", ["", "I cannot do that.", "[]", "{}", "[1, 2]", "```json\n```"])
def test_nothing_is_found_in_nothing(reply):
    assert read_texts(reply) == []
    assert read_objects(reply, FIELDS) == []


@pytest.mark.parametrize(
    "reply",
    [
        '[{"name": "Tides", "relevance": "They move ships.", "use_case": "A skipper plans."}]',
        '{"name": "Tides", "relevance": "They move ships.", "use_case": "A skipper plans."}',
        '[{"Name": "Tides", "Relevance": "They move ships.", "Use case": "A skipper plans.", "x": 1}, {"name": "y"}]',
        '{"items": [{"name": "Tides", "relevance": "They move ships.", "use_case": "A skipper plans."}, {"name": "Wa',
        "1. **Name:** Tides\n   **Relevance:** They move ships.\n   **Use case:** A skipper plans.",
    ],
)
def test_objects(reply):
    assert read_objects(reply, FIELDS) == [ONE]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ('  "Explain tides to a child."\n', "Explain tides to a child."),
        ("```\nExplain tides.\n```", "Explain tides."),
        ("Request: Explain tides.", "Explain tides."),
        ('Say "hello" and "bye"', 'Say "hello" and "bye"'),
        ("Fix this:\n```python\nx\n```", "Fix this:\n```python\nx\n```"),
        ("<think>hm</think>Explain tides.", "Explain tides."),
    ],
)
def test_single_texts(reply, text):
    assert one_text(reply) == text
