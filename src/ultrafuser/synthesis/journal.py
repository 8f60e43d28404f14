"""The journal: one SQLite file with every request of a run, every reply, and every record made of them.

An answer is on disk before the next one is looked at (write-ahead logging), so a killed run loses at most what was
under way; rows are read by cursor, so a million of them need no memory.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultrafuser.endpoint import Reply
from ultrafuser.files import locked
from ultrafuser.synthesis.records import EDITED, KEPT, REJECTED, Ask, Record
from ultrafuser.synthesis.rows import Planned, Settled, as_json, columns, planned_of, record_of, storable
from ultrafuser.synthesis.tallies import Tallies

__all__ = ["Journal"]

FILE = "journal.sqlite"
VERSION = 1  # of the tables' layout, kept in the file's user_version
WAITING, ANSWERED, UNUSABLE = "waiting", "answered", "unusable"  # states of a request

_TABLES = """
CREATE TABLE IF NOT EXISTS requests (
  key TEXT PRIMARY KEY, step TEXT NOT NULL, round INTEGER NOT NULL, domain TEXT NOT NULL, place INTEGER NOT NULL,
  active INTEGER NOT NULL DEFAULT 1, parent TEXT, about TEXT NOT NULL, note TEXT NOT NULL, body TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0, reply TEXT, reason TEXT,
  prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0, cost REAL NOT NULL DEFAULT 0,
  endpoint TEXT, model TEXT);
CREATE INDEX IF NOT EXISTS plan ON requests (step, active, place, domain, state);
CREATE INDEX IF NOT EXISTS parents ON requests (parent, step, active, place);
CREATE TABLE IF NOT EXISTS records (
  request TEXT NOT NULL, number INTEGER NOT NULL, data TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
  PRIMARY KEY (request, number));
CREATE TABLE IF NOT EXISTS stages (stage TEXT PRIMARY KEY, print TEXT NOT NULL) WITHOUT ROWID;
"""
BY_HAND = 1 << 30  # the round of what a person added
IMPORTED = -1  # the round of what came from another data set: before all others, so that it is never retired
_RECORD = "r.request, r.number, q.step, q.domain, r.data, q.about, r.state, r.reason"


class Journal(Tallies):
    """The journal of an output folder. One process writes at a time; others may read.

    Reading and writing use two connections: a cursor sees the journal as it was when it was opened.
    """

    def __init__(self, folder: str | Path, *, create: bool = True) -> None:
        self.folder = Path(folder)
        self.file = self.folder / FILE
        if not create and not self.file.is_file():
            raise ValueError(f"output: {self.folder} holds no journal; `ultrafuser synth run` begins one")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._write = self._open()
            self._prepare()
            self._read = self._open()
        except sqlite3.Error as error:
            raise ValueError(
                f"output: {self.file} is no journal of this version ({error}); name another folder"
            ) from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _prepare(self) -> None:
        found = self._write.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, VERSION):
            raise sqlite3.DatabaseError(f"its layout is number {found}, this version reads number {VERSION}")
        if found != VERSION:  # otherwise nothing is written: a reader need not wait for a run
            self._write.executescript(_TABLES)
            self._write.execute(f"PRAGMA user_version={VERSION}")

    def close(self) -> None:
        """Release the file."""
        self._read.close()
        self._write.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Holds the folder for one run. Raises ValueError where another run has it."""
        taken = f"output: another run works in {self.folder}; wait for it, or name another folder"
        with locked(self.folder / ".running", taken):
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._write.execute("BEGIN IMMEDIATE")
        try:
            yield self._write
        except BaseException:
            self._write.execute("ROLLBACK")
            raise
        self._write.execute("COMMIT")

    # ---- the plan ----

    def stage(self, stage: str) -> str | None:
        """The print under which a stage was completed; None where it was not."""
        row = self._write.execute("SELECT print FROM stages WHERE stage = ?", (stage,)).fetchone()
        return None if row is None else str(row[0])

    def complete(self, stage: str, print_: str) -> None:
        """Note that a stage is complete."""
        self._write.execute("INSERT OR REPLACE INTO stages VALUES (?, ?)", (stage, print_))

    def forget(self, beginnings: Iterable[str]) -> None:
        """Take back the stages whose names begin so: they are done again."""
        with self._transaction() as write:
            write.executemany("DELETE FROM stages WHERE substr(stage, 1, length(?1)) = ?1", [(b,) for b in beginnings])

    def retire(self, step: str, round_: int = 0) -> None:
        """Take a step's requests from this round on out of the plan. Their answers stay, for when they come back."""
        self._write.execute("UPDATE requests SET active = 0 WHERE step = ? AND round >= ?", (step, round_))

    def plan(self, step: str, round_: int, asks: Iterable[tuple[str, Ask]], seed: int, print_: str) -> int:
        """Put a round's requests (domain, ask) into the plan, all or none; returns how many there are.

        A request that was answered before, under whatever plan, is not asked again.
        """
        row = self._write.execute("SELECT MAX(place) FROM requests WHERE step = ? AND active = 1", (step,)).fetchone()
        first = 0 if row[0] is None else row[0] + 1
        place = first
        with self._transaction() as write:
            for domain, ask in asks:
                write.execute(
                    "INSERT INTO requests (key, step, round, domain, place, parent, about, note, body) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET active = 1, round = excluded.round, place = excluded.place",
                    (ask.key(seed, step, round_, domain), step, round_, domain, place, *columns(ask)),
                )
                place += 1
            write.execute("INSERT OR REPLACE INTO stages VALUES (?, ?)", (f"{step}:{round_}", print_))
        return place - first

    def waiting(self, step: str, after: int, limit: int) -> list[tuple[int, Planned]]:
        """The next requests of a step that have no usable answer yet, after a place in its plan."""
        rows = self._write.execute(
            "SELECT place, key, step, domain, about, note, body, attempts FROM requests "
            "WHERE step = ? AND active = 1 AND place > ? AND state = 'waiting' ORDER BY place LIMIT ?",
            (step, after, limit),
        )
        return [(row[0], planned_of(row[1:])) for row in rows]

    def settle(self, planned: Planned, reply: Reply | None, settled: Settled) -> None:
        """Write what an answer came to: the reply, what it cost, its records."""
        state = WAITING if settled.again else UNUSABLE if settled.reason and not settled.made else ANSWERED
        spent = settled.spent
        with self._transaction() as write:
            write.execute(
                "UPDATE requests SET state = ?, attempts = attempts + 1, reply = ?, reason = ?, "
                "prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, cost = cost + ?, "
                "endpoint = ?, model = ? WHERE key = ?",
                (
                    state, None if reply is None else storable(reply.text), settled.reason, spent.prompt_tokens,
                    spent.completion_tokens, spent.cost, settled.endpoint, settled.model, planned.key,
                ),
            )  # fmt: skip
            write.executemany(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, NULL)",
                [(planned.key, number, as_json(data), KEPT) for number, data in enumerate(settled.made)],
            )

    # ---- reading ----

    def records(
        self, step: str, domain: str | None = None, *, rejected: bool = False, since: int = 0, limit: int = -1
    ) -> Iterator[Record]:
        """A step's records in the order of the plan; those rejected only where asked for. `since`: a place."""
        states = "" if rejected else f"AND r.state != '{REJECTED}' "
        of = "" if domain is None else "AND q.domain = :domain "
        cursor = self._read.execute(
            f"SELECT {_RECORD} FROM requests q JOIN records r ON r.request = q.key "
            f"WHERE q.step = :step AND q.active = 1 AND q.place >= :since {of}{states}"
            "ORDER BY q.place, r.number LIMIT :limit",
            {"step": step, "domain": domain, "since": since, "limit": limit},
        )
        for row in cursor:
            yield record_of(row)

    def record(self, identity: str) -> Record | None:
        """A record by its id, whether it is in the plan or not."""
        key, _, number = identity.rpartition(".")
        row = self._read.execute(
            f"SELECT {_RECORD} FROM requests q JOIN records r ON r.request = q.key "
            "WHERE r.request = ? AND r.number = ?",
            (key, number),
        ).fetchone()
        return None if row is None else record_of(row)

    def children(self, identity: str, step: str) -> Iterator[Record]:
        """The records of a step whose first parent is this one, without those rejected, in the order of the plan."""
        cursor = self._read.execute(
            f"SELECT {_RECORD} FROM requests q JOIN records r ON r.request = q.key "
            "WHERE q.parent = ? AND q.step = ? AND q.active = 1 AND r.state != 'rejected' ORDER BY q.place, r.number",
            (identity, step),
        )
        for row in cursor:
            yield record_of(row)

    def extent(self, step: str, domain: str) -> tuple[int, int]:
        """First and last place of a step's requests in a domain; (0, -1) where it has none."""
        row = self._read.execute(
            "SELECT MIN(place), MAX(place) FROM requests WHERE step = ? AND domain = ? AND active = 1", (step, domain)
        ).fetchone()
        return (0, -1) if row[0] is None else (row[0], row[1])

    def prompt(self, key: str) -> tuple[Mapping[str, Any], ...]:
        """The messages of a request; none where a person made the record."""
        row = self._read.execute("SELECT body FROM requests WHERE key = ?", (key,)).fetchone()
        return () if row is None else tuple(json.loads(row[0]).get("messages", ()))

    def judge(self, verdicts: Iterable[tuple[str, str | None]]) -> None:
        """Set records (by id) to rejected with a reason, or back to kept where the reason is None; all at once."""
        with self._transaction() as write:
            for identity, reason in verdicts:
                key, _, number = identity.rpartition(".")
                state = KEPT if reason is None else REJECTED
                write.execute(
                    "UPDATE records SET state = ?, reason = ? WHERE request = ? AND number = ?",
                    (state, reason, key, number),
                )

    def edit(self, identity: str, data: Mapping[str, Any], reason: str) -> None:
        """Put a person's version in the place of a record's data."""
        key, _, number = identity.rpartition(".")
        self._write.execute(
            "UPDATE records SET data = ?, state = ?, reason = ? WHERE request = ? AND number = ?",
            (as_json(data), EDITED, reason, key, number),
        )

    def add(self, step: str, domain: str, about: tuple[str, ...], data: Mapping[str, Any]) -> None:
        """Put a record that a person made into the plan; it is known by its content."""
        with self._transaction() as write:
            self._put(write, (step, domain, about, data), BY_HAND, EDITED, "added by hand")

    def add_all(
        self, step: str, domain: str, rows: Iterable[Mapping[str, Any]], round_: int, reason: str, limit: int | None
    ) -> tuple[int, int]:
        """Put records without parents into the plan, all or none; how many are new, how many were there already."""
        added = known = 0
        with self._transaction() as write:
            for data in rows:
                if limit is not None and added >= limit:
                    break
                new = self._put(write, (step, domain, (), data), round_, KEPT, reason)
                added, known = added + new, known + (not new)
        return added, known

    def _put(self, write: sqlite3.Connection, made: tuple, round_: int, state: str, reason: str) -> bool:
        """Write a record that no request made, and the row that stands for its request; whether it is new."""
        step, domain, about, data = made
        key = "hand-" + hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:15]
        there = write.execute("SELECT active FROM requests WHERE key = ?", (key,)).fetchone()
        if there is not None and there[0]:
            return False
        last = write.execute("SELECT MAX(place) FROM requests WHERE step = ? AND active = 1", (step,)).fetchone()[0]
        place, parent = 0 if last is None else last + 1, about[0] if about else None
        write.execute(
            "INSERT INTO requests (key, step, round, domain, place, parent, about, note, body, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, '{}', '{}', ?) ON CONFLICT (key) DO UPDATE SET active = 1",
            (key, step, round_, domain, place, parent, json.dumps(about), ANSWERED),
        )
        write.execute("INSERT OR REPLACE INTO records VALUES (?, 0, ?, ?, ?)", (key, as_json(data), state, reason))
        return True
