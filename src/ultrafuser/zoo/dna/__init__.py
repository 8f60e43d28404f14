"""Conversations about DNA, drawn by a program: a fourth domain in another symbol system than prose, code and sums."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from ultrafuser.zoo.dna.wordings import TASKS

__all__ = ["SPLITS", "TASKS", "make"]

SPLITS = ("heldout", "validation", "train")


def make(counts: dict[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
    """`counts` records by split, all kinds of task in turn; no two records, of whatever split, share strand or prompt.

    Deterministic by seed. A record holds id, category, task, messages, origin, checked, strand; each is correct by
    construction. ValueError names an unknown split. The licence is that of this package.
    """
    for split in counts:
        if split not in SPLITS:
            raise ValueError(f"counts: unknown split {split!r}; choose from {', '.join(SPLITS)}")
    seen: set[str] = set()
    return {split: list(_split(split, counts[split], seed, seen)) for split in SPLITS if split in counts}


def _split(split: str, count: int, seed: int, seen: set[str]) -> Iterator[dict[str, Any]]:
    draw = random.Random(f"{seed}:dna:{split}")
    names = list(TASKS)
    for number in range(count):
        name = names[number % len(names)]
        while True:
            strand, fields, answer = TASKS[name].draw(draw)
            prompt = draw.choice(TASKS[name].wordings).format(**fields)
            if not {strand, prompt} & seen:
                seen |= {strand, prompt}
                break
        yield {
            "id": f"dna-{split}-{number:05d}",
            "category": "dna",
            "task": name,
            "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
            "origin": "generator",
            "checked": True,
            "strand": strand,
        }
