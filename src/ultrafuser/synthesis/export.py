"""The finished conversations as a data set with its card, in the order of the plan: the same bytes whatever disturbed
the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ultrafuser.files import publish_folder, write_whole
from ultrafuser.lookup import lookup
from ultrafuser.synthesis.card import CARD, MARK, Exported, Origin, render_card
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import Record
from ultrafuser.synthesis.shards import FORMATS, Shards
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.splits import Shares, Splitter
from ultrafuser.synthesis.steps import conversations
from ultrafuser.synthesis.steps.step import folded

__all__ = ["Finished", "Options", "export_dataset", "export_jsonl", "finished", "rows"]

REMEMBERED = 20_000  # records kept while lineages are followed


@dataclass(frozen=True, slots=True)
class Options:
    """How a data set is written. Raises ValueError for what cannot be."""

    form: str = "jsonl"
    shard_rows: int = 50_000
    shares: Shares = field(default_factory=Shares)
    licence: str | None = None
    tokenizer: str | Path | None = None

    def __post_init__(self) -> None:
        lookup(FORMATS, self.form, "format")
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows: {self.shard_rows} is below 1; give the rows of one file, for example 50000")

    @property
    def origin(self) -> Origin:
        """What the card says of it."""
        named = None if self.tokenizer is None else str(self.tokenizer)
        file = None if named is None else Path(named).expanduser()
        name = None if file is None else file.parent.name if file.suffix == ".json" else file.name
        return Origin(self.form, self.shares, self.licence, name)


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished conversation: the instruction that was answered, its answer, further messages, all it came from."""

    instruction: Record
    response: Record
    later: list[Record]
    lineage: list[Record]

    def ids(self, step: str) -> list[str]:
        """Ids of the records of a step that it came from, the nearest first."""
        return [record.id for record in self.lineage if record.step == step]

    def groups(self, apart: str) -> list[str]:
        """What must not lie on two sides of a split."""
        topics = [] if apart == "conversations" else self.ids(apart)
        return topics or [folded(self.instruction.data["text"])]

    def row(self) -> dict[str, Any]:
        """As `data:` of a recipe reads it, with its lineage."""
        messages = [{"role": "user", "content": self.instruction.data["text"]}]
        messages.append({"role": "assistant", "content": self.response.data["text"]})
        messages += [{"role": record.data["role"], "content": record.data["text"]} for record in self.later]
        names: dict[str, str] = {}
        for record in self.lineage:
            names.setdefault(record.step, record.data.get("name", ""))
        return {
            "id": self.response.id,
            "category": self.response.domain,
            "family": names.get("meta_topics"),
            "messages": messages,
            "meta": {
                "made_by": self.instruction.step,
                "sub_topic": names.get("sub_topics"),
                "lineage": [record.id for record in self.lineage],
            },
        }


def finished(journal: Journal, domain: str) -> Iterator[Finished]:
    """A domain's conversations in the order of the plan."""
    known = lru_cache(REMEMBERED)(journal.record)
    for instruction, response, later in conversations(journal, domain):
        yield Finished(instruction, response, later, _lineage(known, instruction))


def rows(journal: Journal, domain: str) -> Iterator[dict[str, Any]]:
    """A domain's conversations as `data:` of a recipe reads them, each with its lineage."""
    for one in finished(journal, domain):
        yield one.row()


def export_jsonl(journal: Journal, domains: list[Domain], file: Path) -> Mapping[str, int]:
    """Write all conversations to one file, which appears whole; returns how many there are by domain."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    counts: dict[str, int] = {}
    with temporary.open("w", encoding="utf-8", newline="\n") as lines:
        for domain in domains:
            counts[domain.name] = 0
            for row in rows(journal, domain.name):
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[domain.name] += 1
        lines.flush()
        os.fsync(lines.fileno())
    os.replace(temporary, file)
    return counts


def export_dataset(
    journal: Journal, spec: Spec, domains: list[Domain], folder: Path, options: Options | None = None
) -> list[Exported]:
    """Write a data set: DOMAIN/SPLIT/00000.jsonl (or .parquet), ..., and its card README.md; what it holds, by domain.

    The folder appears whole: a killed export leaves the one before. Raises ValueError for a folder that holds anything
    else, for a run without any finished conversation, and for shares that cannot be set aside.
    """
    options = options or Options()
    check_folder(folder)
    count = _counter(options.tokenizer)
    staged = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        made = [_export_domain(journal, domain.name, staged, options, count) for domain in domains]
        if not any(one.conversations for one in made):
            raise ValueError(f"{journal.folder} holds no finished conversation yet; `ultrafuser synth run` makes them")
        write_whole(staged / CARD, render_card(journal, spec, domains, made, options.origin))
        publish_folder(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return made


def check_folder(folder: Path) -> None:
    """Raises ValueError where a data set must not be written: over a file, or over anything that is not one of ours."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: {folder} is a file; name a folder for the data set")
    if folder.is_dir() and any(folder.iterdir()):
        card = folder / CARD
        if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
            raise ValueError(f"output: {folder} holds something that is no export; name another folder")


def _export_domain(
    journal: Journal, domain: str, folder: Path, options: Options, count: Callable[[str], int] | None
) -> Exported:
    shares = options.shares
    keys = (one.groups(shares.apart)[0] for one in finished(journal, domain))
    splitter = Splitter(shares, domain, keys)
    made = Exported(domain, shares.wanted)
    shards = {name: Shards(folder / domain / name, options.form, options.shard_rows) for name in shares.wanted}
    try:
        for one in finished(journal, domain):
            split = splitter.split(one.groups(shares.apart))
            if split is None:
                made.straddling += 1
                continue
            row = one.row()
            shards[split].write(row)
            made.count(row, split, one.ids("meta_topics"), one.ids("sub_topics"), count)
    finally:
        for shard in shards.values():
            shard.close()
    return made


def _counter(tokenizer: str | Path | None) -> Callable[[str], int] | None:
    """Counts tokens by the tokenizer.json named, or in the folder named."""
    if tokenizer is None:
        return None
    file = Path(tokenizer).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"tokenizer: {file} does not exist; name a tokenizer.json, or the folder of a model with one")
    from tokenizers import Tokenizer

    opened = Tokenizer.from_file(str(file))
    return lambda text: len(opened.encode(text, add_special_tokens=False).ids)


def _lineage(known: Callable[[str], Record | None], record: Record) -> list[Record]:
    """A record and what it was made from, the record first, each once."""
    found = {record.id: record}
    waiting = list(record.parents)
    while waiting:
        identity = waiting.pop(0)
        if identity in found:
            continue
        parent = known(identity)
        if parent is not None:
            found[identity] = parent
            waiting.extend(parent.parents)
    return list(found.values())
