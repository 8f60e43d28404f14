"""What filters removed and why: counts for everybody, every removed record for whoever wants to look."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultrafuser.files import write_json, write_whole
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.filters.filter import text_of
from ultrafuser.synthesis.filters.table import FILTERS
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import REJECTED
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps import STEPS

__all__ = ["removed", "write_report"]

EXAMPLES = 5  # of each reason
SHOWN = 200  # characters of an example
OTHER = "review"  # what no filter removed


def removed(spec: Spec, domains: Sequence[Domain], journal: Journal, file: Path | None = None) -> dict[str, Any]:
    """By step: records made, kept and removed, those removed by filter and kind of reason, with examples.

    Reads by cursor. Where `file` is given, every removed record is written to it as a line of JSON.
    """
    steps: dict[str, Any] = {}
    with open(file if file is not None else os.devnull, "w", encoding="utf-8", newline="\n") as lines:
        for step in STEPS:
            found: dict[str, Any] = {"made": 0, "kept": 0, "removed": 0, "filters": {}}
            for domain in domains:
                for record in journal.records(step, domain.name, rejected=True):
                    found["made"] += 1
                    if record.state != REJECTED:
                        found["kept"] += 1
                        continue
                    found["removed"] += 1
                    row = _row(record.reason or "")
                    entry = {"id": record.id, "step": step, "domain": record.domain, **row, "text": text_of(record)}
                    lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    _count(found["filters"], entry)
            if found["made"]:
                steps[step] = found
    return {"name": spec.name, "steps": steps}


def _row(reason: str) -> dict[str, str]:
    name, _, said = reason.partition(": ")
    if name not in FILTERS:
        return {"filter": OTHER, "kind": reason, "detail": ""}
    kind, _, detail = said.partition(": ")
    return {"filter": name, "kind": kind, "detail": detail}


def _count(filters: dict[str, Any], entry: dict[str, str]) -> None:
    kinds = filters.setdefault(entry["filter"], {"removed": 0, "kinds": {}})
    kinds["removed"] += 1
    kind = kinds["kinds"].setdefault(entry["kind"], {"removed": 0, "examples": []})
    kind["removed"] += 1
    if len(kind["examples"]) < EXAMPLES:
        shown = {key: entry[key] for key in ("id", "domain", "detail")}
        kind["examples"].append(shown | {"text": entry["text"][:SHOWN]})


def write_report(spec: Spec, domains: Sequence[Domain], journal: Journal) -> Path:
    """Write removed.json, removed.md and removed.jsonl (every removed record) into the output folder.

    Returns the path of removed.md.
    """
    folder = journal.folder
    temporary = folder / ".removed.jsonl.part"
    found = removed(spec, domains, journal, temporary)
    os.replace(temporary, folder / "removed.jsonl")
    write_json(folder / "removed.json", found)
    write_whole(folder / "removed.md", _markdown(found))
    return folder / "removed.md"


def _markdown(found: dict[str, Any]) -> str:
    lines = [f"# What was removed from {found['name']}, and why", ""]
    lines += ["Every removed record is a line of removed.jsonl; nothing is deleted from the journal.", ""]
    lines += ["| step | made | kept | yield | removed by |", "|---|---|---|---|---|"]
    for step, one in found["steps"].items():
        by = ", ".join(f"{name} {row['removed']}" for name, row in one["filters"].items())
        lines.append(f"| {step} | {one['made']} | {one['kept']} | {one['kept'] / one['made']:.1%} | {by} |")
    for step, one in found["steps"].items():
        for name, row in one["filters"].items():
            lines += ["", f"## {step}: {name}, {row['removed']} removed", ""]
            for kind, told in row["kinds"].items():
                lines.append(f"- {kind}: {told['removed']}")
                lines += [f"  - `{shown['id']}` {_cell(shown)}" for shown in told["examples"]]
    return "\n".join(lines) + "\n"


def _cell(shown: dict[str, str]) -> str:
    detail = " ".join(shown["detail"].split())
    text = " ".join(shown["text"].split()).replace("`", "'")
    return f"({shown['domain']}) {detail + ' — ' if detail else ''}`{text}`"
