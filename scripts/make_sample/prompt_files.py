"""Reads the prompt files beside this script into `Prompt` records; knows nothing of models or checks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "prompts"
MODEL_CATEGORIES = ("text", "code", "composite")


@dataclass(frozen=True)
class Prompt:
    """One prompt of ours, with what its answer has to satisfy.

    `turns` holds the user's messages in order; `tests` is Python source that runs after the answer's code; `answers`
    are numbers that the worked part of a composite answer has to name, `work` is our own calculation for it.
    """

    category: str
    split: str
    family: str
    turns: tuple[str, ...]
    tests: str = ""
    answers: tuple[str, ...] = ()
    work: str = ""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256("\n".join((self.category, *self.turns)).encode()).hexdigest()[:10]
        object.__setattr__(self, "key", f"{self.category}-{digest}")


def read_prompts(category: str, folder: Path = FOLDER) -> list[Prompt]:
    """All prompts of one category in file order. ValueError names the file and line that cannot be read."""
    path = folder / f"{category}.txt"
    prompts: list[Prompt] = []
    split = family = ""
    line = ""
    below: list[str] = []

    def close() -> None:
        nonlocal line, below
        if line:
            tests = "\n".join(row for row in below if not row.startswith(("answer ", "work ")))
            work = "\n".join(row[5:] for row in below if row.startswith("work "))
            answers = tuple(row.split()[1] for row in below if row.startswith("answer "))
            turns = tuple(part.strip() for part in line.split(" >> "))
            prompts.append(Prompt(category, split, family, turns, tests, answers, work))
        line, below = "", []

    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if raw.startswith("== "):
            close()
            split, family = raw.split()[1:3]
            if split not in ("train", "heldout"):
                raise ValueError(f"{path}:{number}: split {split!r} is neither 'train' nor 'heldout'")
        elif raw.startswith("    "):
            below.append(raw[4:])
        elif raw.strip() and not raw.startswith("#"):
            close()
            if not family:
                raise ValueError(f"{path}:{number}: a prompt before the first '== split family' line")
            line = raw.strip()
    close()
    return prompts


def asking_order(prompts: list[Prompt]) -> list[Prompt]:
    """Composite and held-out first, categories interleaved, families spread: a run cut short leaves a usable sample."""
    ranks: dict[str, float] = {}
    for split in ("heldout", "train"):
        for category in MODEL_CATEGORIES:
            families: dict[str, list[Prompt]] = {}
            for prompt in prompts:
                if (prompt.split, prompt.category) == (split, category):
                    families.setdefault(prompt.family, []).append(prompt)
            spread = sorted(
                (
                    (place, number, prompt)
                    for number, members in enumerate(families.values())
                    for place, prompt in enumerate(members)
                ),
                key=lambda row: row[:2],
            )
            for place, (_, _, prompt) in enumerate(spread):
                ranks[prompt.key] = (split == "train") + place / (len(spread) + 1)
    return sorted(prompts, key=lambda prompt: ranks[prompt.key])
