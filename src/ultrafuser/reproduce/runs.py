"""Named runs and where their results are kept: a run whose result is there is never done twice.

A run is a function, its inputs, and the runs whose results it is given. Its key is a hash of all that decides the
result, so that one folder serves calls with other tables, seeds or scales.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultrafuser.files import write_json

if TYPE_CHECKING:
    from ultrafuser.reproduce.context import Context
    from ultrafuser.reproduce.plan import Plan

Result = dict[str, Any]
Function = Callable[["Context", dict[str, Any], dict[str, Result]], Result]


@dataclass(frozen=True)
class Run:
    """`function(context, inputs, found)` gives the result, plain JSON; `found` holds those of `after` by name.

    The function is a module's own, so that a worker finds it. `cost` is about how many seconds it takes on one core:
    it only serves the time left. Raise `version` when the function changes what it gives for the same inputs.
    """

    name: str
    function: Function
    inputs: Mapping[str, Any]
    after: tuple[Run, ...] = ()
    cost: float = 1.0
    version: int = 1

    def key(self, plan: Plan) -> str:
        """Hash of what decides the result: function, version, inputs, models, data, and the runs before it."""
        what = {
            "basis": plan.basis(),
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "version": self.version,
            "inputs": self.inputs,
            "after": [run.key(plan) for run in self.after],
        }
        return sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def in_order(wanted: Iterable[Run], plan: Plan) -> dict[str, Run]:
    """All runs that are needed, by key, each after those that it builds on; one that several want is there once."""
    found: dict[str, Run] = {}

    def add(run: Run) -> None:
        for earlier in run.after:
            add(earlier)
        found.setdefault(run.key(plan), run)

    for run in wanted:
        add(run)
    names: dict[str, str] = {}
    for key, run in found.items():
        assert names.setdefault(run.name, key) == key, f"two different runs are called {run.name}"
    return found


@dataclass(frozen=True)
class Store:
    """The folder of results (runs/NAME.KEY.json) and of what a run works in (work/NAME.KEY)."""

    folder: Path
    plan: Plan

    def file(self, run: Run) -> Path:
        """Where the result of a run is kept."""
        return self.folder / "runs" / f"{self._slug(run)}.json"

    def work(self, run: Run) -> Path:
        """Where a run keeps checkpoints and models."""
        return self.folder / "work" / self._slug(run)

    def has(self, run: Run) -> bool:
        """Whether the result is there."""
        return self.file(run).is_file()

    def read(self, run: Run) -> Result:
        """The result of a finished run."""
        result: Result = json.loads(self.file(run).read_text(encoding="utf-8"))["result"]
        return result

    def seconds(self, run: Run) -> float:
        """How long a finished run took, over all calls that worked on it."""
        return float(json.loads(self.file(run).read_text(encoding="utf-8"))["seconds"])

    def write(self, run: Run, result: Result, seconds: float) -> None:
        """Keep a result; the file appears whole or not at all."""
        about = {"name": run.name, "inputs": run.inputs, "seconds": round(seconds, 2), "result": result}
        write_json(self.file(run), about)

    def _slug(self, run: Run) -> str:
        return f"{run.name.replace('/', '.')}.{run.key(self.plan)}"


@dataclass(frozen=True)
class Results:
    """What a table is made of: the results of its runs, and why some are missing."""

    store: Store
    failures: Mapping[str, str]  # name of a run -> what went wrong

    def get(self, run: Run) -> Result | None:
        """The result of a run; None where it failed."""
        return self.store.read(run) if self.store.has(run) else None

    def all(self, runs: Iterable[Run]) -> list[Result]:
        """The results of all these runs, as a rule one per seed; none where one is missing.

        A mean over fewer seeds would stand beside means over all of them, and differ by the seeds left out.
        """
        found = [self.get(run) for run in runs]
        return [] if None in found else [result for result in found if result is not None]

    def why(self, runs: Iterable[Run]) -> str:
        """What went wrong with the first of these runs that has no result; empty where all have one."""
        missing = [run for run in runs if not self.store.has(run)]
        return "" if not missing else self.failures.get(missing[0].name, "not run")
