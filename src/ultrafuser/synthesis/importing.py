"""Instructions of an existing data set as seeds of a pool: expansion, complication, filters and responses take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrafuser.data.sources import HUB_PREFIX, iter_conversations
from ultrafuser.lookup import lookup
from ultrafuser.synthesis.journal import IMPORTED, Journal
from ultrafuser.synthesis.pipeline import restart_after

__all__ = ["AUTO", "IMPORTERS", "Imported", "Importer", "detect", "import_instructions"]

AUTO = "auto"
STEP = "instructions"
FAULTS_KEPT = 5  # faults told in full


@dataclass(frozen=True, slots=True)
class Importer:
    """A data set's format: the fields that its records have, in one of several shapes. `FORMATS` reads them all."""

    name: str
    summary: str
    shapes: tuple[frozenset[str], ...]

    def fit(self, record: Mapping[str, Any]) -> int:
        """How many fields speak for this format; 0 where it is another one."""
        return max((len(shape) for shape in self.shapes if shape <= record.keys()), default=0)


def _importer(name: str, summary: str, *shapes: str) -> Importer:
    return Importer(name, summary, tuple(frozenset(shape.split()) for shape in shapes))


_ROWS = (
    _importer("evol-instruct", "one instruction, evolved", "instruction output", "idx conversations"),
    _importer("alpaca", "an instruction and perhaps its input", "instruction input output", "instruction output"),
    _importer("mathinstruct", "a problem, its solution and its source", "source instruction output"),
    _importer("dolly", "an instruction with its context", "instruction context response", "instruction response"),
    _importer("sharegpt", "a conversation of from and value", "conversations"),
    _importer("ultrachat", "texts in turns, or messages", "data", "messages prompt_id", "messages prompt"),
    _importer("messages", "messages with role and content, as an export writes them", "messages"),
)

IMPORTERS: dict[str, Importer] = {row.name: row for row in _ROWS}


@dataclass
class Imported:
    """What an import did: instructions put in, those that were there or came twice, faulty records by place."""

    added: int = 0
    known: int = 0
    faulty: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, told: str) -> None:
        """Note a faulty record; the first few in full."""
        self.faulty += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(told)


def detect(record: Mapping[str, Any]) -> str:
    """Name of the format that most of a record's fields speak for. Raises ValueError where it is none."""
    fits = {name: row.fit(record) for name, row in IMPORTERS.items()}
    best = max(fits, key=lambda name: fits[name])
    if not fits[best]:
        known = "; ".join(f"{row.name}: {', '.join(sorted(row.shapes[0]))}" for row in _ROWS)
        raise ValueError(f"the record has the fields {', '.join(map(str, record)) or 'none'}; formats are {known}")
    return best


def import_instructions(
    journal: Journal,
    domain: str,
    form: str,
    source: str | Path,
    *,
    limit: int | None = None,
    skip_faulty: bool = False,
) -> Imported:
    """Put the first user message of every record into the pool of a domain; what follows is planned anew.

    `form` is a name of IMPORTERS or "auto", `source` a file, folder or Hub data set as `data:` of a recipe reads them.
    An instruction goes in once, however often it is imported. Raises ValueError, and puts nothing in, for a record
    of another format or one that cannot be read, unless `skip_faulty`.
    """
    if form != AUTO:
        lookup(IMPORTERS, form, "FORMAT")
    done = Imported()
    name = str(source) if str(source).startswith(HUB_PREFIX) else Path(source).name
    reason = f"imported from {name}"
    texts = _texts(domain, form, source, done.fault if skip_faulty else None)
    with journal.only_writer():
        done.added, done.known = journal.add_all(STEP, domain, texts, IMPORTED, reason, limit)
        if done.added:
            restart_after(journal, STEP)
    return done


def _texts(
    domain: str, form: str, source: str | Path, on_fault: Callable[[str], None] | None
) -> Iterator[dict[str, str]]:
    for number, (one, record) in enumerate(iter_conversations(source, domain, on_fault=on_fault), start=1):
        text = next(message["content"] for message in one.messages if message["role"] == "user").strip()
        fault = _fault(form, record) or (None if text else "its first user message is empty")
        if fault is None:
            yield {"text": text}
        elif on_fault is None:
            raise ValueError(f"{source}, record {number}: {fault}; --skip-faulty leaves such records out")
        else:
            on_fault(f"{source}, record {number}: {fault}")


def _fault(form: str, record: Mapping[str, Any]) -> str | None:
    """Why a record is not of the format; None where it is."""
    try:
        found = detect(record)
    except ValueError as error:
        return str(error)
    if form == AUTO or IMPORTERS[form].fit(record):
        return None
    return f"its fields are {', '.join(map(str, record))}: that is {found}, not {form}"
