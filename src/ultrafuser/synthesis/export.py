"""The finished conversations as JSON Lines, in the order of the plan: the same bytes whatever disturbed the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import Record
from ultrafuser.synthesis.steps import conversations

__all__ = ["export_jsonl", "rows"]


def rows(journal: Journal, domain: str) -> Iterator[dict[str, Any]]:
    """A domain's conversations as `data:` of a recipe reads them, each with its lineage."""
    for instruction, response, later in conversations(journal, domain):
        messages = [{"role": "user", "content": instruction.data["text"]}]
        messages.append({"role": "assistant", "content": response.data["text"]})
        messages += [{"role": record.data["role"], "content": record.data["text"]} for record in later]
        lineage = _lineage(journal, instruction)
        names = {record.step: record.data.get("name") for record in lineage}
        yield {
            "id": response.id,
            "category": domain,
            "family": names.get("meta_topics"),
            "messages": messages,
            "meta": {
                "made_by": instruction.step,
                "sub_topic": names.get("sub_topics"),
                "lineage": [record.id for record in lineage],
            },
        }


def export_jsonl(journal: Journal, domains: list[Domain], file: Path) -> Mapping[str, int]:
    """Write all conversations to a file, which appears whole; returns how many there are by domain."""
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


def _lineage(journal: Journal, record: Record) -> list[Record]:
    """A record and what it was made from, the record first, each once."""
    found = {record.id: record}
    waiting = list(record.parents)
    while waiting:
        identity = waiting.pop(0)
        if identity in found:
            continue
        parent = journal.record(identity)
        if parent is not None:
            found[identity] = parent
            waiting.extend(parent.parents)
    return list(found.values())
