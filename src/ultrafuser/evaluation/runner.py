"""Runs benchmarks on a model and keeps the record; killed at any moment, the same call goes on where it was.

Answers are on the disk as soon as they are there, so none is asked for twice; verdicts follow them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrafuser.evaluation.benchmark import Answer, Item
from ultrafuser.evaluation.files import Log, read_lines, write_lines
from ultrafuser.evaluation.opening import open_run, refuse_foreign, run_settings
from ultrafuser.evaluation.plan import Task, check
from ultrafuser.evaluation.record import (
    LOCK_FILE,
    SUMMARY_FILE,
    Entry,
    Run,
    answer_from_dict,
    answer_to_dict,
    entries_file,
    journal_file,
    load_run,
    read_entries,
    read_summary,
)
from ultrafuser.evaluation.subject import Subject
from ultrafuser.evaluation.tools import Tools
from ultrafuser.files import locked, write_json

__all__ = ["OnProgress", "Progress", "evaluate", "mean_gate_weights"]

PORTION = 16  # answers graded at a time: enough for a judge or sandbox to work on several, few enough to see progress

Key = tuple[str, int]  # an item's id and the sample's number


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one benchmark is: answers graded of all, the score so far, what this call did in how many seconds."""

    benchmark: str
    done: int
    total: int
    score: float | None
    answers: int
    tokens: int
    seconds: float


OnProgress = Callable[[Progress], None]


def evaluate(
    subject: Subject,
    tasks: Sequence[Task],
    tools: Tools,
    folder: Path,
    *,
    overwrite: bool = False,
    command: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> Run:
    """Ask and grade everything, or what is left of it, and return the run as it then lies in `folder`.

    `command` is kept in run.json. Everything is checked before the first answer. Raises ValueError where something is
    missing, and where `folder` holds a run with other settings (`overwrite` replaces it) or anything else.
    """
    check(tasks, subject, tools)
    folder = folder.expanduser().absolute()
    settings = run_settings(subject, tasks, tools, command)
    refuse_foreign(folder)
    busy = f"--output: another evaluation is at work in {folder}; wait for it, stop it, or choose another output"
    with locked(folder / LOCK_FILE, busy):
        open_run(folder, settings, overwrite=overwrite)
        for task in tasks:
            _finish(subject, task, tools, folder, on_progress or (lambda progress: None))
    return load_run(folder)


class _State:
    """What is there of one benchmark, and how fast it grows."""

    def __init__(self, task: Task, on_progress: OnProgress) -> None:
        self.task = task
        self.on_progress = on_progress
        self.items = {item.id: item for item in task.items}
        self.entries: dict[Key, Entry] = {}
        self.waiting: dict[Key, Answer] = {}  # answered, not graded
        self.answers = self.tokens = 0
        self.started = time.monotonic()
        self._above = self._below = 0.0

    def known(self, key: Key) -> bool:
        """Whether this item has been answered."""
        return key in self.entries or key in self.waiting

    def add(self, entry: Entry) -> None:
        """Take in a graded answer."""
        self.entries[entry.id, entry.sample] = entry
        self.waiting.pop((entry.id, entry.sample), None)
        score = entry.scores.get(self.task.benchmark.metric)
        if score is not None and math.isfinite(score):
            self._above += score * entry.weight
            self._below += entry.weight

    def report(self) -> None:
        """Say how far it is."""
        score = self._above / self._below if self._below else None
        seconds = time.monotonic() - self.started
        done, name = len(self.entries), self.task.benchmark.name
        self.on_progress(Progress(name, done, self.task.total, score, self.answers, self.tokens, seconds))


def _finish(subject: Subject, task: Task, tools: Tools, folder: Path, on_progress: OnProgress) -> None:
    """Answer, grade and sum up one benchmark, as far as that is not done."""
    name = task.benchmark.name
    pass_at = list(task.options.pass_at)
    summary = read_summary(folder)
    if name in summary and summary[name].get("pass_at") == pass_at:
        return
    if name not in summary:
        _ask_and_grade(subject, task, tools, folder, on_progress)
    entries = read_entries(entries_file(folder, name), torn=False)
    row = _summarise(task, entries) | {"pass_at": pass_at}
    write_json(folder / SUMMARY_FILE, {"model": subject.name, "benchmarks": summary | {name: row}})


def _summarise(task: Task, entries: list[Entry]) -> dict[str, Any]:
    from ultrafuser.evaluation.statistics import summarise

    row = summarise(entries, task.benchmark.metric, pass_at=task.options.pass_at, seed=task.options.seed)
    return row | {"gate_weights": mean_gate_weights(entries)}


def mean_gate_weights(entries: Sequence[Entry]) -> dict[str, float] | None:
    """Mean weight of each specialist over all response tokens; None where there is no gate."""
    rows = [(entry.gate_weights, max(entry.tokens, 1)) for entry in entries if entry.gate_weights]
    total = sum(tokens for _, tokens in rows)
    names = list(rows[0][0]) if rows else []
    return {name: sum(w.get(name, 0.0) * tokens for w, tokens in rows) / total for name in names} or None


def _ask_and_grade(subject: Subject, task: Task, tools: Tools, folder: Path, on_progress: OnProgress) -> None:
    name = task.benchmark.name
    final, journal = entries_file(folder, name), journal_file(folder, name)
    state = _State(task, on_progress)
    _read_state(state, final, journal)
    state.report()
    with Log(final) as graded, Log(journal) as answered:
        _grade_waiting(state, tools, graded)
        batches = task.batches(subject.length)
        for sample in range(task.samples):
            for number, batch in enumerate(batches):
                rest = [item for item in batch if not state.known((item.id, sample))]
                if rest:
                    _ask(subject, state, rest, sample, number, answered)
                    _grade_waiting(state, tools, graded)
    ordered = [state.entries[item.id, sample] for item in task.items for sample in range(task.samples)]
    write_lines(final, (entry.as_dict() for entry in ordered))
    journal.unlink()


def _read_state(state: _State, final: Path, journal: Path) -> None:
    """Take in the entries and answers that an earlier call left; an answer that was graded is an entry."""
    for entry in read_entries(final, torn=True):
        if entry.id not in state.items or not 0 <= entry.sample < state.task.samples:
            raise ValueError(f"{final}: item {entry.id!r} is not among those asked; run again with --overwrite")
        state.add(entry)
    for number, row in read_lines(journal, torn=True):
        try:
            key = (row["id"], row["sample"])
            answer = answer_from_dict(row["answer"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{journal}, line {number}: no answer of a run ({error}); use --overwrite") from None
        if key not in state.entries:
            state.waiting[key] = answer


def _ask(subject: Subject, state: _State, items: list[Item], sample: int, batch: int, journal: Log) -> None:
    """Answer what is left of one batch; every answer is on the disk before the next is waited for."""
    missing = dict(enumerate(items))
    for index, answer in subject.answer(items, state.task.asking(sample, batch)):
        item = missing.pop(index)
        journal.append([{"id": item.id, "sample": sample, "answer": answer_to_dict(answer)}])
        state.waiting[item.id, sample] = answer
        state.answers += 1
        state.tokens += answer.tokens
    assert not missing, f"{subject.name} gave no answer to {[item.id for item in missing.values()]}"


def _grade_waiting(state: _State, tools: Tools, graded: Log) -> None:
    """Verdicts for what is answered, a portion at a time."""
    waiting = list(state.waiting.items())
    for start in range(0, len(waiting), PORTION):
        portion = waiting[start : start + PORTION]
        verdicts = state.task.benchmark.grade([(state.items[key[0]], answer) for key, answer in portion], tools)
        entries = [
            Entry.of(state.items[key[0]], key[1], answer, verdict)
            for (key, answer), verdict in zip(portion, verdicts, strict=True)
        ]
        graded.append(entry.as_dict() for entry in entries)
        for entry in entries:
            state.add(entry)
        state.report()
