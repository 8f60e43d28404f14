"""The sample on which `ultrafuser demo` trains and tests: our own pairs of text, code, maths, and mixed answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CATEGORIES = ("text", "code", "math", "composite")
EXTRAS = ("dna",)  # of further domains: read where they are named, and not by what reads the whole sample
SPLITS = ("train", "heldout")
FOLDER = Path(__file__).parent


def path(category: str, split: str) -> Path:
    """The JSONL file of one category and split. ValueError lists the choices; composite is held-out only."""
    choices = [f"{c}.{s}" for c in (*CATEGORIES, *EXTRAS) for s in SPLITS if (c, s) != ("composite", "train")]
    if f"{category}.{split}" not in choices:
        raise ValueError(f"the sample has no {category!r} {split!r}: choose one of {', '.join(choices)}")
    return FOLDER / f"{category}.{split}.jsonl"


def load(category: str, split: str) -> list[dict[str, Any]]:
    """The records of one category and split: id, category, family (dna: task), messages, origin, and `checked` where it
    was run.

    Raises ValueError for a category or split that does not exist.
    """
    return [json.loads(line) for line in path(category, split).read_text(encoding="utf-8").splitlines()]
