"""A run as it lies on disk: run.json (what was asked of what), NAME.jsonl (an entry per answer), summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from ultrafuser.evaluation.benchmark import Answer, Item, Likelihood, Verdict
from ultrafuser.evaluation.files import read_json, read_lines

__all__ = [
    "FORMAT",
    "LOCK_FILE",
    "REPORT_FILE",
    "RUN_FILE",
    "SUMMARY_FILE",
    "Entry",
    "Run",
    "answer_from_dict",
    "answer_to_dict",
    "entries_file",
    "journal_file",
    "load_run",
    "read_entries",
    "read_settings",
    "read_summary",
]

FORMAT = 1  # of the files of a run; a change that older readers misread makes it 2
RUN_FILE, SUMMARY_FILE, REPORT_FILE, LOCK_FILE = "run.json", "summary.json", "report.html", ".lock"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of NAME.jsonl: an item, one answer to it (number `sample` of those asked for), its verdict.

    `prompts`, `gate_weights` and `tokenizers` (see `Answer`) are per specialist, `likelihoods` is [query][continuation]
    of [nats, tokens], nats None where the continuation was not to be had.
    """

    id: str
    sample: int = 0
    group: str | None = None
    turns: Sequence[str] = ()
    queries: Sequence[Mapping[str, Any]] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    answers: Sequence[str] = ()
    likelihoods: Sequence[Sequence[Sequence[float | None]]] = ()
    extracted: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    gate_weights: Mapping[str, float] | None = None
    tokenizers: Mapping[str, Mapping[str, float]] | None = None
    tokens: int = 0
    finished: bool = True
    seconds: float = 0.0

    @classmethod
    def of(cls, item: Item, sample: int, answer: Answer, verdict: Verdict) -> Entry:
        """The entry of one graded answer."""
        return cls(
            id=item.id,
            sample=sample,
            group=item.group,
            turns=list(item.turns),
            queries=[asdict(query) for query in item.queries],
            answers=list(answer.texts),
            likelihoods=_pairs(answer),
            extracted=verdict.extracted,
            scores=dict(verdict.scores),
            weight=verdict.weight,
            note=verdict.note,
            detail=dict(verdict.detail),
            prompts=dict(answer.prompts),
            gate_weights=None if answer.gate_weights is None else dict(answer.gate_weights),
            tokenizers=None if answer.tokenizers is None else dict(answer.tokenizers),
            tokens=answer.tokens,
            finished=answer.finished,
            seconds=answer.seconds,
        )

    @classmethod
    def from_dict(cls, row: Any, where: str) -> Entry:
        """The entry of a line; ValueError names the place and the field that is wrong."""
        if not isinstance(row, Mapping) or not isinstance(row.get("id"), str):
            raise ValueError(f"{where}: no entry of a run (an object with an id); run the evaluation again")
        unknown = sorted(set(row) - {one.name for one in fields(cls)})
        if unknown:
            raise ValueError(f"{where}: unknown field {unknown[0]!r}; it was written by another version of ultrafuser")
        return cls(**row)

    def as_dict(self) -> dict[str, Any]:
        """The line as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """A run read from its folder. `settings` is run.json; its "benchmarks" hold, per name, "metric" and
    "higher_is_better"; `entries` are per benchmark, one per item and sample, in the order of the data.

    `summary` is what summary.json says per benchmark; one that is not in it was stopped before its end, and its
    entries are those so far.
    """

    folder: Path
    settings: dict[str, Any]
    entries: dict[str, list[Entry]]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tables call it: its folder's name."""
        return self.folder.name

    @property
    def unfinished(self) -> list[str]:
        """The benchmarks that were stopped before their end."""
        return [name for name in self.settings["benchmarks"] if name not in self.summary]


def load_run(folder: str | Path) -> Run:
    """The run that lies in a folder, finished or not. Raises ValueError where there is none, saying what is."""
    folder = Path(folder).expanduser()
    settings = read_settings(folder)
    summary = read_summary(folder)
    entries = {
        name: read_entries(entries_file(folder, name), torn=name not in summary) for name in settings["benchmarks"]
    }
    return Run(folder.absolute(), settings, entries, summary)


def entries_file(folder: Path, benchmark: str) -> Path:
    """Where a benchmark's entries are."""
    return folder / f"{benchmark}.jsonl"


def journal_file(folder: Path, benchmark: str) -> Path:
    """Where a benchmark's answers are until all are graded."""
    return folder / f"{benchmark}.answers.jsonl"


def read_entries(file: Path, *, torn: bool) -> list[Entry]:
    """The entries of NAME.jsonl, none where it does not exist; `torn` forgives a last line cut off by a kill."""
    entries = [Entry.from_dict(row, f"{file}, line {number}") for number, row in read_lines(file, torn=torn)]
    seen: set[tuple[str, int]] = set()
    for entry in entries:
        if (entry.id, entry.sample) in seen:
            raise ValueError(
                f"{file}: item {entry.id!r}, sample {entry.sample} stands there twice; run again with --overwrite"
            )
        seen.add((entry.id, entry.sample))
    return entries


def read_settings(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises ValueError where the folder holds no run, with the nearest that does."""
    file = folder / RUN_FILE
    if not file.is_file():
        if not folder.is_dir():
            kind = "is a file, not a folder" if folder.exists() else "does not exist"
            raise ValueError(f"RUN: folder {str(folder)!r} {kind}; name the folder that `ultrafuser eval` printed")
        inside = sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}"))
        hint = f"did you mean {str(inside[0])!r}?" if inside else "name the folder that `ultrafuser eval` printed"
        raise ValueError(f"RUN: folder {str(folder)!r} has no {RUN_FILE}, so it holds no evaluation; {hint}")
    settings: dict[str, Any] = read_json(file)
    if not isinstance(settings.get("benchmarks"), dict):
        raise ValueError(f"RUN: {file} is no record of an evaluation (it has no benchmarks); name another folder")
    if settings.get("format") != FORMAT:
        raise ValueError(
            f"RUN: {file} has format {settings.get('format')!r}, and this version reads {FORMAT}; run the evaluation "
            "again, or install the version of ultrafuser that wrote it"
        )
    return settings


def read_summary(folder: Path) -> dict[str, Any]:
    """What summary.json says per finished benchmark; nothing where there is none yet."""
    file = folder / SUMMARY_FILE
    return dict(read_json(file).get("benchmarks", {})) if file.is_file() else {}


def _pairs(answer: Answer) -> list[list[list[float | None]]]:
    return [[[one.logprob, one.tokens] for one in query] for query in answer.likelihoods]


def answer_to_dict(answer: Answer) -> dict[str, Any]:
    """An answer as plain data, for the journal."""
    row = {one.name: getattr(answer, one.name) for one in fields(answer)}
    return row | {"texts": list(answer.texts), "likelihoods": _pairs(answer), "prompts": dict(answer.prompts)}


def answer_from_dict(row: Mapping[str, Any]) -> Answer:
    """The answer of a line of the journal."""
    likelihoods = tuple(
        tuple(Likelihood(-inf if nats is None else nats, int(tokens)) for nats, tokens in query)
        for query in row["likelihoods"]
    )
    rest = {one.name: row[one.name] for one in fields(Answer) if one.name in row}
    return Answer(**(rest | {"texts": tuple(row["texts"]), "likelihoods": likelihoods}))
