"""What the model is told before a prompt of ours: a system message and worked examples, all written by us."""

from __future__ import annotations

SYSTEM = {
    "text": "You are a thoughtful, friendly assistant. Answer in flowing plain prose of 60 to 90 words, in full "
    "sentences and at most two paragraphs. No markdown, no bold, no headings. Only when a list is asked for, write a "
    "short numbered list. In letters and messages use made-up first names, never placeholders in brackets.",
    "code": "You are a programming assistant. First say in one or two sentences how the solution works. Then give one "
    "compact code block marked with its language. No usage examples, no tests, no numpy. Stay below 100 words.",
    "composite": "You answer in three parts, without headings, bold text, lists or LaTeX. First one paragraph of plain "
    "prose, about 50 words, without formulas. Then the calculation, one short step per line, each with an equation in "
    "plain digits. Last one sentence and a short Python function in a ```python block. No usage example. Check every "
    "number.",
}

EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "text": [
        (
            "Why do people keep a diary?",
            "Many people keep a diary because writing slows their thoughts down. A worry that turns in circles in "
            "the head "
            "often looks smaller once it stands on paper. A diary also keeps the little things that memory lets go, "
            "such as "
            "the joke a friend made or the way the kitchen smelled on a certain morning. Years later those small "
            "notes can "
            "bring back a whole season of life, and that alone makes ten minutes in the evening well spent.",
        ),
        (
            "Write a note to my flatmate about the dishes.",
            "Hi Tom,\n\nI hope your week is going well. The dishes have been piling up a little, and I found no "
            "clean cup this "
            "morning. Could we agree that each of us washes up on the evening he has cooked? I will gladly do "
            "tonight's, since "
            "you bought the food. If another plan suits you better, just tell me.\n\nThanks,\nBen",
        ),
    ],
    "code": [
        (
            "Write a Python function `last_word(text)` that returns the last word of a text.",
            "Splitting the text at white space gives a list of words, and the last entry is the one we want. An "
            "empty text has "
            "no words, so the function returns an empty string then.\n\n```python\ndef last_word(text):\n    words = "
            'text.split()\n    return words[-1] if words else ""\n```',
        ),
    ],
    "composite": [
        (
            "Explain what a square number is, compute the sum of the squares of 2, 3 and 4 step by step, and write a "
            "Python "
            "function `sum_of_squares(values)`.",
            "A square number is what you get when you multiply a whole number by itself. The name comes from "
            "patterns of dots: "
            "if every row has as many dots as there are rows, the dots form a square. Such numbers turn up whenever "
            "we measure "
            "areas or compare how far values lie apart.\n\nFirst square each number: 2 * 2 = 4, 3 * 3 = 9 and 4 * 4 "
            "= 16.\nThen "
            "add the first two: 4 + 9 = 13.\nAdd the last one: 13 + 16 = 29.\nSo the sum of the squares is "
            "29.\n\nThe function "
            "below goes through the values and adds up their squares.\n\n```python\ndef sum_of_squares(values):\n    "
            "return "
            "sum(value * value for value in values)\n```",
        ),
    ],
}

MAX_TOKENS = {"text": 200, "code": 230, "composite": 400}
TEMPERATURE = {"text": 0.7, "code": 0.6, "composite": 0.6}


def opening(category: str) -> list[dict[str, str]]:
    """The messages that stand before a prompt of this category."""
    messages = [{"role": "system", "content": SYSTEM[category]}]
    for question, answer in EXAMPLES[category]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages
