"""Small data sets and runs for the training tests, also usable from a subprocess."""

from __future__ import annotations

import random
from typing import Any

from ultrafuser.data import Conversation, ResponseDataset
from ultrafuser.recipe import StageConfig

WORDS = {
    "text": ["the", "old", "fox", "sleeps", "under", "a", "warm", "red", "tree", "near", "our", "quiet", "house"],
    "code": ["def", "add", "return", "self", "list", "range", "print", "value", "index", "loop", "break"],
    "math": ["one", "two", "three", "plus", "minus", "times", "equals", "seven", "eight", "sum", "half"],
}


def talks(seed: int, per_category: dict[str, int]) -> list[Conversation]:
    """Conversations of random words, one in three with two answers, of different lengths."""
    draw = random.Random(seed)
    found = []
    for category, count in per_category.items():
        for i in range(count):
            messages = []
            for _ in range(2 if i % 3 == 0 else 1):
                for role in ("user", "assistant"):
                    text = " ".join(draw.choices(WORDS[category], k=draw.randint(1, 9)))
                    messages.append({"role": role, "content": text})
            found.append(Conversation(f"{category}-{seed}-{i}", category, messages))
    return found


def dataset(templates: Any, tokenizer: Any, seed: int = 0, **per_category: int) -> ResponseDataset:
    """An encoded data set of `talks`."""
    counts = per_category or {"text": 9, "code": 7, "math": 11}
    return ResponseDataset.from_conversations(talks(seed, counts), list(templates), tokenizer)


def stage(train: str = "gate", **settings: Any) -> StageConfig:
    """A short stage."""
    given = {
        "name": train,
        "train": train,
        "steps": 4,
        "examples_per_category": 2,
        "learning_rate": 1e-2,
        "eval_every": 2,
        "save_every": 2,
        "logging_steps": 1,
    }
    return StageConfig(**(given | settings))
