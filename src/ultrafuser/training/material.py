"""The data of a recipe: loaded, cleaned of what is in the held-out data, split, encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ultrafuser.data import (
    Conversation,
    ResponseDataset,
    decontaminate,
    load_conversations,
    split_validation,
)
from ultrafuser.recipe import DomainData, Recipe

__all__ = ["Conversations", "Material", "encode", "load_material", "participation_lines", "read_conversations"]

Resolve = Callable[[str], str]
LARGE = 5000  # conversations from which on encoding takes long enough to be told about


@dataclass(frozen=True)
class Conversations:
    """What a recipe's data holds after cleaning and splitting, category after category, as text."""

    train: list[Conversation]
    validation: list[Conversation]
    heldout: list[Conversation]
    removed: dict[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, list[Conversation]]:
        """The three lists by name."""
        return {"train": self.train, "validation": self.validation, "heldout": self.heldout}


@dataclass
class Material:
    """Encoded data sets, and what was left out by domain: too long, or sharing a 13-gram with held-out data."""

    train: ResponseDataset
    validation: ResponseDataset | None
    heldout: ResponseDataset | None
    removed: dict[str, int] = field(default_factory=dict)

    def as_dict(self, specialists: Sequence[str] = ()) -> dict[str, Any]:
        """Counts by domain as plain JSON; where tokenizers differ, also the share of response tokens that each of the
        `specialists` takes part in."""
        tokens = self.train.response_tokens()
        shares = self.train.participation() or {}
        found: dict[str, Any] = {}
        for name, count in self.train.counts().items():
            found[name] = {
                "train": count,
                "response_tokens": tokens[name],
                "validation": self.validation.counts().get(name, 0) if self.validation else 0,
                "heldout": self.heldout.counts().get(name, 0) if self.heldout else 0,
                "dropped_too_long": self.train.dropped[name],
                "removed_for_overlap": self.removed.get(name, 0),
            }
            if name in shares:  # tokenizers differ
                found[name]["participation"] = dict(zip(specialists, shares[name], strict=True))
        return found


def load_material(
    recipe: Recipe,
    templates: list[str],
    tokenizer: Any,
    resolve_data: Resolve,
    say: Callable[[str], None] = lambda message: None,
) -> Material:
    """Read and encode all data of a recipe; `say` is told how far a large set is (about a thousand a second).

    `tokenizer`: that of all, or the TokenTables of specialists whose tokenizers differ.
    Raises ValueError naming category, file, line and fix.
    """
    return encode(read_conversations(recipe, resolve_data), recipe, templates, tokenizer, say)


def read_conversations(recipe: Recipe, resolve_data: Resolve) -> Conversations:
    """Read a recipe's data, take out of `train` what is held out too, and set validation aside.

    Raises ValueError naming category, file, line and fix.
    """
    parts: dict[str, dict[str, list[Conversation]]] = {"train": {}, "validation": {}, "heldout": {}}
    for category, domain in recipe.data.items():
        for part in parts:
            entries = [resolve_data(entry) for entry in getattr(domain, part)]
            limit = domain.limit if part == "train" else None
            parts[part][category] = load_conversations(entries, category, limit=limit) if entries else []
    heldout = [conversation for found in parts["heldout"].values() for conversation in found]
    removed = {}
    for category, domain in recipe.data.items():
        kept = decontaminate(parts["train"][category], heldout).kept
        removed[category] = len(parts["train"][category]) - len(kept)
        if not kept:
            raise ValueError(
                f"data.{category}.train: all {removed[category]} conversations share 13 words in a row, or a short "
                "prompt, with the held-out data; train and heldout must be different conversations"
            )
        parts["train"][category], more = _split(kept, domain, recipe.seed)
        parts["validation"][category] += more
    joined = {part: [c for found in by_category.values() for c in found] for part, by_category in parts.items()}
    return Conversations(joined["train"], joined["validation"], joined["heldout"], removed)


def encode(
    conversations: Conversations,
    recipe: Recipe,
    templates: list[str],
    tokenizer: Any,
    say: Callable[[str], None] = lambda message: None,
) -> Material:
    """All parts as ids in `templates`; what is longer than the recipe's max_length is left out, or an error."""

    def told(done: int, total: int) -> None:
        if total >= LARGE and done % (total // 10) == 0:
            say(f"encoded {done:,} of {total:,} conversations")

    def encoded(part: str) -> ResponseDataset | None:
        found = conversations.parts[part]
        if not found:
            return None
        return ResponseDataset.from_conversations(
            found,
            templates,
            tokenizer,
            max_length=recipe.max_length,
            on_too_long=recipe.on_too_long if part == "train" else "drop",
            categories=list(dict.fromkeys(conversation.category for conversation in found)),
            part=part,
            progress=told,
        )

    train = encoded("train")
    assert train is not None
    return Material(train, encoded("validation"), encoded("heldout"), conversations.removed)


def participation_lines(dataset: ResponseDataset, specialists: Sequence[str]) -> list[str]:
    """Sentences on the share of response tokens that each specialist takes part in, where tokenizers differ."""
    return [
        f"{category}: takes part in predicting "
        + ", ".join(f"{name} {share:.1%}" for name, share in zip(specialists, shares, strict=True))
        + " of the response tokens"
        for category, shares in (dataset.participation() or {}).items()
    ]


def _split(
    conversations: list[Conversation], domain: DomainData, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    if domain.validation_fraction is None:
        return conversations, []
    return split_validation(conversations, domain.validation_fraction, seed=seed)
