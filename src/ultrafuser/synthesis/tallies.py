"""Counts over the journal: what was made, removed and used, without going through the records."""

from __future__ import annotations

import sqlite3

from ultrafuser.synthesis.rows import Spent

__all__ = ["Tallies"]


class Tallies:
    """The part of a journal that counts; the file is opened by the journal."""

    _read: sqlite3.Connection

    def mean_tokens(self, step: str, domain: str) -> tuple[float, float] | None:
        """Mean tokens of prompt and reply over a step's answers so far; None where there is none."""
        row = self._read.execute(
            "SELECT SUM(prompt_tokens), SUM(completion_tokens), SUM(attempts) FROM requests "
            "WHERE step = ? AND domain = ? AND attempts > 0 AND completion_tokens > 0",
            (step, domain),
        ).fetchone()
        return (row[0] / row[2], row[1] / row[2]) if row[2] else None

    def spent(self) -> Spent:
        """What was used so far, by requests in the plan and by those that no longer are."""
        row = self._read.execute(
            "SELECT SUM(attempts), SUM(prompt_tokens), SUM(completion_tokens), SUM(cost) FROM requests"
        ).fetchone()
        return Spent(*(value or 0 for value in row))

    def removed(self, step: str) -> dict[str, dict[str, int]]:
        """By domain: how many records of a step were rejected, by what their reason begins with."""
        found: dict[str, dict[str, int]] = {}
        by = "substr(r.reason, 1, instr(r.reason || ':', ':') - 1)"
        for domain, name, number in self._read.execute(
            f"SELECT q.domain, {by}, COUNT(*) FROM requests q JOIN records r ON r.request = q.key "
            "WHERE q.step = ? AND q.active = 1 AND r.state = 'rejected' GROUP BY 1, 2",
            (step,),
        ):
            found.setdefault(domain, {})[name] = number
        return found

    def models(self, step: str) -> list[str]:
        """Names of the models that answered a step's requests, as their endpoints give them."""
        asked = "SELECT DISTINCT model FROM requests WHERE step = ? AND active = 1 AND model != '' ORDER BY model"
        return [row[0] for row in self._read.execute(asked, (step,))]

    def counts(self, step: str) -> dict[str, dict[str, int]]:
        """By domain: how many requests of a step wait, are answered or unusable, and records by state."""
        found: dict[str, dict[str, int]] = {}
        for domain, state, number in self._read.execute(
            "SELECT domain, state, COUNT(*) FROM requests WHERE step = ? AND active = 1 GROUP BY 1, 2", (step,)
        ):
            found.setdefault(domain, {})[state] = number
        for domain, state, number in self._read.execute(
            "SELECT q.domain, r.state, COUNT(*) FROM requests q JOIN records r ON r.request = q.key "
            "WHERE q.step = ? AND q.active = 1 GROUP BY 1, 2",
            (step,),
        ):
            found.setdefault(domain, {})[state] = number
        return found
