"""A setting's conversations in other templates: the same choice of them, whatever is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ultrafuser.data import Conversation, ResponseDataset
from ultrafuser.training.material import Material

if TYPE_CHECKING:
    from ultrafuser.baselines.setting import Setting

__all__ = ["encoded", "fitting"]


def encoded(setting: Setting, templates: Sequence[str], domains: Sequence[str] | None = None) -> Material:
    """See `Setting.encoded`. Raises ValueError for an unknown domain."""
    for domain in domains or ():
        if domain not in setting.domains:
            raise ValueError(f"domain: {domain!r} is not one of {', '.join(setting.domains)}")
    given, known = setting.conversations, setting.material

    def again(conversations: list[Conversation], dataset: ResponseDataset | None) -> ResponseDataset | None:
        if dataset is None:
            return None
        kept = fitting(conversations, dataset)
        return ResponseDataset.from_conversations(kept, templates, setting.tokenizer, categories=dataset.categories)

    if list(templates) == list(setting.templates.values()):
        material = known
    else:
        train = again(given.train, known.train)
        assert train is not None
        validation, heldout = again(given.validation, known.validation), again(given.heldout, known.heldout)
        material = Material(train, validation, heldout, known.removed)
    if domains is None:
        return material
    return replace(material, train=_only(material.train, list(domains)))


def fitting(conversations: Sequence[Conversation], dataset: ResponseDataset) -> list[Conversation]:
    """The conversations that `dataset` was made of: it keeps their order and leaves out what is too long."""
    rows, found = iter(conversations), []
    for example in dataset.examples:
        wanted = (example.id, dataset.categories[example.category])
        found.append(next(row for row in rows if (row.id, row.category) == wanted))
    return found


def _only(dataset: ResponseDataset, domains: list[str]) -> ResponseDataset:
    """The examples of these domains, in order, and no other category."""
    place = {dataset.categories.index(domain): new for new, domain in enumerate(domains)}
    examples = [replace(e, category=place[e.category]) for e in dataset.examples if e.category in place]
    return ResponseDataset(examples, domains, n_specialists=dataset.n_specialists, max_length=dataset.max_length)
