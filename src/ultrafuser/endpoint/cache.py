"""Replies on disk, so that a rerun costs nothing: one SQLite file that threads and processes can share."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from ultrafuser.endpoint.messages import Reply

__all__ = ["ReplyCache", "request_key"]

VERSION = 1  # of the table's layout, kept in the file's user_version


def request_key(body: dict[str, Any], sample: int) -> str:
    """SHA-256 of what decides a reply: the body (model and sampling parameters included), and the sample's number.

    The address is left out on purpose: the same model behind another port answers the same.
    """
    line = json.dumps([body, sample], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(line.encode()).hexdigest()


class ReplyCache:
    """A table from request keys to replies. Prompts and API keys are not stored.

    A reply is on disk when `put` returns: write-ahead logging keeps the file whole under kill -9, and SQLite's locks
    keep processes apart.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise ValueError(
                f"cache: {str(path)!r} cannot be used as a cache of replies ({error}); name another file, or delete it"
            ) from error

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")  # a file system that cannot do it stays as it was
        self._connection.execute("PRAGMA synchronous=NORMAL")
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, VERSION):
            raise sqlite3.DatabaseError(f"its layout is number {found}, this version reads number {VERSION}")
        self._connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        self._connection.execute(f"PRAGMA user_version={VERSION}")

    def get(self, key: str) -> Reply | None:
        """The reply kept under `key`, marked as cached; an unreadable one counts as absent."""
        with self._lock:
            row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        try:
            return None if row is None else Reply.from_json(row[0])
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; the newest one counts."""
        with self._lock:
            self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply.to_json()))

    def __len__(self) -> int:
        with self._lock:
            return int(self._connection.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()
