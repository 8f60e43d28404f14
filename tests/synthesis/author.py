"""What the scripted endpoint writes: it follows from the messages alone, so that two runs can be compared."""

import hashlib
import json
import re

from scripted import completion

SHAPES = ("Explain {} to a neighbour", "Write a function about {}", "How many {} fit", "Compare {} with its rivals")


def mark(body: dict, number: int = 0) -> str:
    """Letters that follow from the messages."""
    line = json.dumps(body["messages"]) + str(number)
    return hashlib.sha256(line.encode()).hexdigest()[:10]


def write(body: dict) -> str:
    """The text of a good reply."""
    messages = body["messages"]
    prompt = messages[-1]["content"]
    count = int(found[1]) if (found := re.search(r"JSON list of (\d+)", prompt)) else 0
    names = [mark(body, number) for number in range(count)]
    if '"relevance"' in prompt:
        return json.dumps([{"name": f"part {n}", "relevance": f"{n} matters", "use_case": f"for {n}"} for n in names])
    if "broad topics" in prompt:
        return json.dumps([f"topic {name}" for name in names])
    if count:
        texts = [f"{SHAPES[int(name, 16) % 4].format(name)}, and say why {name[::-1]} matters." for name in names]
        return json.dumps(texts)
    return f"About {mark(body)}: it depends on the case, and here is how. It ends well."


def author(body: dict, number: int = 0) -> dict:
    """A completion."""
    text = write(body)
    return completion(text, tokens=len(text) // 4)
