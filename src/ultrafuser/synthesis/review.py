"""Review by a person: topics as a YAML file to edit, and what was changed, removed or added in it, read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrafuser.files import write_whole
from ultrafuser.recipe.yaml_text import YamlError, dump, parse
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import REJECTED, Record
from ultrafuser.synthesis.steps import STEPS

__all__ = ["Changes", "apply_review", "content_print", "file_of", "read_review", "write_review"]

_HEAD = """\
# {summary}, by domain. Edit what is not good, then run the same command again:
#   remove an entry    nothing is made from it
#   change its words   what follows is made from yours (leave the id as it is)
#   add an entry       without an id{parent}
"""
REMOVED = "removed in review"
Added = tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]  # domain, parents, fields with their values


@dataclass(slots=True)
class Changes:
    """What a review file says: ids to remove, new data by id, new entries."""

    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    edited: dict[str, dict[str, Any]] = field(default_factory=dict)
    added: list[Added] = field(default_factory=list)
    kept: int = 0

    @property
    def any(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self.removed or self.restored or self.edited or self.added)


def file_of(journal: Journal, step: str) -> Path:
    """The review file of a step."""
    return journal.folder / "review" / f"{step}.yaml"


def write_review(journal: Journal, domains: Sequence[Domain], step: str) -> Path:
    """Write the review file of a step; returns its path."""
    row = STEPS[step]
    parent = f", with `{row.reads[0][:-1]}: NAME` to say where it belongs" if row.reads else ""
    text = _HEAD.format(summary=row.summary.capitalize(), parent=parent)
    names = {record.id: record.data["name"] for above in row.reads for record in journal.records(above)}
    shown = {
        domain.name: [_entry(record, row.reads, names) for record in journal.records(step, domain.name)]
        for domain in domains
    }
    file = file_of(journal, step)
    write_whole(file, text + dump(shown))
    return file


def _entry(record: Record, above: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    parents = {step[:-1]: names.get(identity, "?") for step, identity in zip(above, record.parents, strict=False)}
    return {"id": record.id, **parents, **record.data}


def read_review(journal: Journal, step: str) -> Changes:
    """What the review file of a step asks for. Raises ValueError with file, line, field and fix."""
    file = file_of(journal, step)
    try:
        data, lines = parse(file.read_text(encoding="utf-8"))
    except YamlError as error:
        raise ValueError(f"{file}: line {error.line}: not valid YAML: {error}") from None
    there = {record.id: record for record in journal.records(step, rejected=True)}
    changes = Changes()
    seen: set[str] = set()
    for domain, place, entry in _entries(file, data, lines):
        where = f"{file}: line {place}: {domain}"
        identity = entry.pop("id", None)
        values = _values(where, step, entry)
        if identity is None:
            parents = _parents(where, journal, step, domain, entry)
            changes.added.append((domain, parents, tuple(values.items())))
        elif identity not in there:
            raise ValueError(f"{where}: id {identity!r} is not one that was written here; leave it out for a new entry")
        else:
            seen.add(identity)
            _compare(there[identity], values, changes)
    by_hand = {one: _found(one, there) for one in changes.added}
    seen |= {identity for identity in by_hand.values() if identity is not None}
    changes.added = [one for one, identity in by_hand.items() if identity is None]
    changes.removed = [i for i, record in there.items() if i not in seen and record.state != REJECTED]
    return changes


def _compare(record: Record, values: dict[str, Any], changes: Changes) -> None:
    if values != dict(record.data):
        changes.edited[record.id] = values
    elif record.state == REJECTED and record.reason == REMOVED:
        changes.restored.append(record.id)
    else:
        changes.kept += 1


def apply_review(journal: Journal, step: str, changes: Changes) -> None:
    """Write a review's changes into the journal: nothing is deleted, the states of records say what was done."""
    journal.judge((identity, REMOVED) for identity in changes.removed)
    journal.judge((identity, None) for identity in changes.restored)
    for identity, data in changes.edited.items():
        record = journal.record(identity)
        before = json.dumps(dict(record.data), ensure_ascii=False) if record is not None else ""
        journal.edit(identity, data, f"edited in review; it was {before}")
    for domain, parents, fields in changes.added:
        journal.add(step, domain, parents, dict(fields))


def content_print(journal: Journal, step: str) -> str:
    """A hash of the review file as it is now."""
    return hashlib.sha256(file_of(journal, step).read_bytes()).hexdigest()[:20]


def _entries(file: Path, data: Any, lines: Mapping[tuple, int]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    if not isinstance(data, dict):
        raise ValueError(f"{file}: a review file is a mapping of domains to lists; remove it to have it written anew")
    for domain, entries in data.items():
        for number, entry in enumerate(entries or []):
            place = lines.get((domain, number), 0)
            if not isinstance(entry, dict):
                raise ValueError(f"{file}: line {place}: {domain}: {entry!r} is no entry; write `- name: {entry}`")
            yield domain, place, entry


def _values(where: str, step: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    makes, above = STEPS[step].makes, [name[:-1] for name in STEPS[step].reads]
    odd = [key for key in entry if key not in (*makes, *above)]
    if odd:
        raise ValueError(f"{where}: no such field {odd[0]!r}; the fields are {', '.join((*above, *makes))}")
    for name in makes:
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise ValueError(f"{where}: {name}: {entry.get(name)!r} is no text; write one")
    return {name: entry[name].strip() for name in makes}


def _parents(where: str, journal: Journal, step: str, domain: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    for above in STEPS[step].reads:
        name = entry.get(above[:-1])
        match = [record.id for record in journal.records(above, domain) if record.data["name"] == name]
        if not match:
            raise ValueError(f"{where}: {above[:-1]}: {name!r} is none of the domain's; give the name of one")
        found.append(match[0])
    return tuple(found)


def _found(one: Added, there: Mapping[str, Record]) -> str | None:
    """Id of what was added by hand when the file was read before."""
    same = (r.id for r in there.values() if (r.domain, r.parents, tuple(r.data.items())) == one)
    return next(same, None)
