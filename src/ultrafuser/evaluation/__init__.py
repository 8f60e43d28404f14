"""Evaluation: benchmarks, sandbox, judges, statistics, the record of runs and their comparison. Light to import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultrafuser.evaluation.benchmarks import BENCHMARKS
    from ultrafuser.evaluation.compare import compare_runs
    from ultrafuser.evaluation.data import load_domains, load_records
    from ultrafuser.evaluation.plan import Options, make_task
    from ultrafuser.evaluation.record import Entry, Run, load_run
    from ultrafuser.evaluation.runner import evaluate
    from ultrafuser.evaluation.tools import Tools

_HOME = {
    "BENCHMARKS": "benchmarks",
    "Entry": "record",
    "Options": "plan",
    "Run": "record",
    "Tools": "tools",
    "compare_runs": "compare",
    "evaluate": "runner",
    "load_domains": "data",
    "load_records": "data",
    "load_run": "record",
    "make_task": "plan",
}

__all__ = [
    "BENCHMARKS",
    "Entry",
    "Options",
    "Run",
    "Tools",
    "compare_runs",
    "evaluate",
    "load_domains",
    "load_records",
    "load_run",
    "make_task",
]


def __getattr__(name: str) -> Any:
    """Import a part only when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
