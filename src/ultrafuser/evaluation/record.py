"""A run as it lies on disk: run.json (what was asked of what), NAME.jsonl (an entry per answer), summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Run"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of NAME.jsonl: an item, one answer to it (number `sample` of those asked for), its verdict.

    `prompts` and `gate_weights` are per specialist, `likelihoods` is [query][continuation] of [nats, tokens].
    """

    id: str
    sample: int = 0
    group: str | None = None
    turns: Sequence[str] = ()
    queries: Sequence[Mapping[str, Any]] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    answers: Sequence[str] = ()
    likelihoods: Sequence[Sequence[Sequence[float]]] = ()
    extracted: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    gate_weights: Mapping[str, float] | None = None
    tokens: int = 0
    finished: bool = True
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The line as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """A run read from its folder. `settings` is run.json; its "benchmarks" hold, per name, "metric" and
    "higher_is_better"; `entries` are per benchmark, one per item and sample, in the order of the data."""

    folder: Path
    settings: dict[str, Any]
    entries: dict[str, list[Entry]]

    @property
    def name(self) -> str:
        """What tables call it: its folder's name."""
        return self.folder.name
