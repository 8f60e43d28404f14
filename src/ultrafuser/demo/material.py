"""Opens the trio and the sample: conversations split by family, encoded for all specialists or for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from ultrafuser.data import Conversation, ResponseDataset, load_conversations
from ultrafuser.demo.plan import DemoPlan, DemoSources
from ultrafuser.demo.results import COLUMNS, DOMAINS
from ultrafuser.templates import load_template


@dataclass
class Material:
    """Everything that a training of the demo needs, apart from the model."""

    plan: DemoPlan
    folders: dict[str, Path]
    templates: dict[str, str]
    tokenizer: Any
    train: list[Conversation]
    validation: list[Conversation]
    heldout: list[Conversation]

    @property
    def names(self) -> list[str]:
        """Names of the specialists, in order."""
        return list(self.folders)

    def dataset(self, split: str, names: Sequence[str]) -> ResponseDataset:
        """A split encoded in the templates of the named specialists.

        The choice of conversations is the same for every `names`: what is too long for one is left out for all.
        """
        return ResponseDataset.from_conversations(
            [c for c in getattr(self, split) if c.id in self._fitting],
            [self.templates[name] for name in names],
            self.tokenizer,
            categories=COLUMNS if split == "heldout" else DOMAINS,
        )

    @cached_property
    def _fitting(self) -> set[str]:
        everything = [*self.train, *self.validation, *self.heldout]
        dataset = ResponseDataset.from_conversations(
            everything, list(self.templates.values()), self.tokenizer, max_length=self.plan.max_length
        )
        return {example.id for example in dataset.examples}


def open_material(plan: DemoPlan, sources: DemoSources) -> Material:
    """Read tokenizer, templates and conversations; nothing of the models' weights yet."""
    from transformers import AutoTokenizer

    folders = {name: Path(folder) for name, folder in sources.specialists.items()}
    tokenizers = {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}
    templates = {name: load_template(None, tokenizers[name]) for name in folders}
    given = [c for domain in DOMAINS for c in load_conversations(sources.data[domain]["train"], domain)]
    train, validation = split_by_family(given, plan.validation_share)
    heldout = [c for domain in COLUMNS for c in load_conversations(sources.data[domain]["heldout"], domain)]
    _refuse_repeated([*given, *heldout])
    return Material(plan, folders, templates, next(iter(tokenizers.values())), train, validation, heldout)


def split_by_family(
    conversations: Sequence[Conversation], share: float
) -> tuple[list[Conversation], list[Conversation]]:
    """Training and validation part: whole families go to validation until it holds `share` of each category.

    Families are taken in the order of a hash of their name, so the split is the same for every seed. A conversation
    without a family is one of its own; a category of a single family is split by conversation instead.
    """
    chosen: set[str] = set()
    for category in dict.fromkeys(c.category for c in conversations):
        rows = [c for c in conversations if c.category == category]
        families: dict[str, list[str]] = {}
        alone = len({c.family for c in rows}) == 1
        for c in rows:
            families.setdefault(c.id if alone or c.family is None else c.family, []).append(c.id)
        wanted, taken = share * len(rows), 0
        for family in sorted(families, key=lambda name: sha256(name.encode()).digest()):
            if taken >= wanted:
                break
            if taken + len(families[family]) <= max(2 * wanted, 1):  # a large family stays in training
                chosen.update(families[family])
                taken += len(families[family])
    train = [c for c in conversations if c.id not in chosen]
    return train, [c for c in conversations if c.id in chosen]


def _refuse_repeated(conversations: Sequence[Conversation]) -> None:
    seen: set[str] = set()
    for c in conversations:
        if c.id in seen:
            raise ValueError(f"data.{c.category}: two conversations have the id {c.id!r}; ids must differ")
        seen.add(c.id)
