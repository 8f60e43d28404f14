"""One call of `reproduce`: does the missing runs, makes the tables, writes the report."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from ultrafuser import __version__
from ultrafuser.files import write_json, write_whole
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.report import Report, render_html, render_markdown
from ultrafuser.reproduce.runs import Results, Store, in_order
from ultrafuser.reproduce.schedule import OnEvent, cores, do_runs
from ultrafuser.reproduce.tables import TABLES, wanted_runs
from ultrafuser.workers import held

PAGE_FILE, MARKDOWN_FILE, NUMBERS_FILE = "report.html", "report.md", "numbers.json"
LOCK_FILE = ".lock"


def reproduce(
    folder: Path, plan: Plan, *, workers: int | None = None, on_event: OnEvent = lambda event: None
) -> Report:
    """Do what is missing, then write report.html, report.md and numbers.json into `folder`.

    `workers` processes work side by side (0: all in this process); None takes the scale's number, or one on one core.
    What fails is told in the report and takes nothing else with it. Raises ValueError where the folder holds anything
    else, or another call is at work in it.
    """
    _check_folder(folder)
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder, plan)
    if workers is None:
        workers = min(plan.settings.workers, cores())
    taken = f"--output: another reproduction is running in {folder}; wait or use another"
    with held(folder / LOCK_FILE, taken) as lock:
        failures = do_runs(in_order(wanted_runs(plan), plan), store, workers=workers, on_event=on_event, lock=lock)
        return _written(folder, plan, store, failures, {"this call": _clock(time.monotonic() - started)})


def report_so_far(folder: Path, plan: Plan) -> Report:
    """Write the report of the results that are there and run nothing, also while another call is at work in `folder`.

    Raises ValueError where the folder holds no reproduction.
    """
    if not (folder / LOCK_FILE).is_file():
        raise ValueError(f"--output: {folder} holds no reproduction; name its folder, or leave out --report")
    return _written(folder, plan, Store(folder, plan), {}, {})


def _written(folder: Path, plan: Plan, store: Store, failures: dict[str, str], facts: dict[str, str]) -> Report:
    runs = in_order(wanted_runs(plan), plan)
    spent = sum(store.seconds(run) for run in runs.values() if store.has(run))
    facts = {
        "seed" if len(plan.seeds) == 1 else "seeds": ", ".join(map(str, plan.seeds)),
        "runs": f"{sum(map(store.has, runs.values()))} of {len(runs)}",
        "work in all, over processes": _clock(spent),
        **facts,
        "version": __version__,
    }
    report = _make(plan, Results(store, failures), facts)
    write_whole(folder / PAGE_FILE, render_html(report))
    write_whole(folder / MARKDOWN_FILE, render_markdown(report))
    write_json(folder / NUMBERS_FILE, report.numbers())
    return report


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _make(plan: Plan, results: Results, facts: dict[str, str]) -> Report:
    tables, failures = {}, dict(results.failures)
    for name in plan.tables:
        try:
            tables[name] = TABLES[name].make(plan, results)
        except Exception as error:  # one table's mistake must not cost the others
            failures[name] = f"{type(error).__name__}: {error}"
    return Report(plan, tables, failures, facts)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK_FILE).exists():
        raise ValueError(f"--output: {folder} holds files, but none of an earlier reproduction; name another folder")
