"""What `ultrafuser eval` prints: progress while it runs, scores at the end, the list of benchmarks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ultrafuser.evaluation.record import Run
    from ultrafuser.evaluation.runner import OnProgress, Progress

__all__ = ["benchmark_rows", "benchmark_table", "progress", "score_table", "show_scores", "weight_table"]

LINE_EVERY = 15.0  # seconds between lines where there is no terminal
COUNTS = {
    "unfinished": "answers cut off by a length limit",
    "flagged": "answers without a clear verdict (flagged in the record)",
    "unscored": "answers without a score, left out",
}
MOST_GROUPS, FEWEST_ITEMS = 8, 5  # more groups, or smaller ones, are in the record and on the page only


@contextmanager
def progress(console: Console) -> Iterator[OnProgress]:
    """Bars on a terminal, one per benchmark; elsewhere a line now and then."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[how]}", markup=False),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(step: Progress) -> None:
            if step.benchmark not in tasks:
                tasks[step.benchmark] = bars.add_task(
                    step.benchmark, total=step.total, completed=step.done, how=_how(step)
                )
            bars.update(tasks[step.benchmark], completed=step.done, how=_how(step))

        yield report


class _Lines:
    """A line when a benchmark starts and ends, and now and then between."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last = ("", 0.0)

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        name, since = self.last
        if step.benchmark == name and step.done < step.total and now - since < LINE_EVERY:
            return
        self.last = (step.benchmark, now)
        self.console.print(Text(f"{step.benchmark}: {step.done} of {step.total}{_how(step, ', ')}"), soft_wrap=True)


def _how(step: Progress, before: str = "") -> str:
    """Score so far and speed, as far as they are known."""
    parts = []
    if step.score is not None:
        parts.append(f"score {step.score:.3f}")
    if step.tokens and step.seconds > 0:
        parts.append(f"{step.tokens / step.seconds:.0f} tokens/s")
    return before + ", ".join(parts) if parts else ""


def show_scores(console: Console, run: Run, summary: Mapping[str, Any], notice: str | None) -> None:
    """The scores of a run, what must be known before they are believed, where everything is."""
    console.print()
    console.print(score_table(run, summary))
    weights = weight_table(summary)
    if weights is not None:
        console.print()
        console.print(weights)
    for note in _notes(summary):
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if notice is not None and any(row.get("gate_weights") for row in summary.values()):
        console.print(Text(notice, style="yellow"), soft_wrap=True)
    console.print(Text(f"every prompt, answer and verdict: {run.folder}"), soft_wrap=True)


def score_table(run: Run, summary: Mapping[str, Any]) -> Table:
    """Benchmark, metric, score, interval, items, seconds; pass@k and groups below."""
    from ultrafuser.evaluation.units import score_text, unit_of

    table = _table(f"{run.settings['model']}: scores, shares in percent", "benchmark", "metric")
    for heading in ("score", "95% interval", "n", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in summary.items():
        higher = run.settings["benchmarks"][name]["higher_is_better"]
        values = [] if row["score"] is None else [row["score"]]
        unit = unit_of(row["metric"], values, higher_is_better=higher)
        score = Text(score_text(row["score"], unit), "bold")
        seconds = f"{row['seconds']:.1f}"
        table.add_row(Text(name), Text(row["metric"]), score, _interval(row, unit), str(row["n"]), seconds)
        for label, one in _parts(row):
            table.add_row("", Text(label, "dim"), score_text(one["score"], unit), _interval(one, unit), str(one["n"]))
    return table


def weight_table(summary: Mapping[str, Any]) -> Table | None:
    """Mean weight of each specialist by benchmark; None where there is no gate."""
    rows = {name: row["gate_weights"] for name, row in summary.items() if row.get("gate_weights")}
    if not rows:
        return None
    table = _table("mean gate weights", "benchmark")
    names = list(next(iter(rows.values())))
    for name in names:
        table.add_column(Text(name), justify="right")
    for benchmark, weights in rows.items():
        largest = max(weights.values())
        cells = [Text(f"{weights[name]:.3f}", "bold" if weights[name] == largest else "") for name in names]
        table.add_row(Text(benchmark), *cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title=Text(title, "italic"), title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _parts(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows below a benchmark's own: pass@k, and the groups where they are few."""
    yield from ((name, one) for name, one in row["also"].items() if name.startswith("pass@"))
    if 1 < len(row["groups"]) <= MOST_GROUPS and row["n"] >= FEWEST_ITEMS * len(row["groups"]):
        yield from row["groups"].items()


def _interval(row: Mapping[str, Any], unit: str) -> str:
    """The bootstrap interval; where it has no width, the exact one of so many items right or wrong, with a mark."""
    from ultrafuser.evaluation.units import ends_text

    if _alike(row):
        return ends_text(row["exact95"], unit) + "°"
    return "–" if row["ci95"] is None else ends_text(row["ci95"], unit)


def _alike(row: Mapping[str, Any]) -> bool:
    """Whether all items are right, or all wrong, so that a bootstrap sees no spread."""
    return "exact95" in row and (row["ci95"] is None or row["ci95"][0] == row["ci95"][1])


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know before believing the scores, one line per kind."""
    if any(_alike(row) for row in summary.values()):
        yield "° every item scores the same: the interval is the exact one (Clopper-Pearson), not a bootstrap"
    for key, meaning in COUNTS.items():
        found = [f"{name} {row['counts'][key]} of {row['counts']['answers']}" for name, row in summary.items()
                 if row["counts"][key]]  # fmt: skip
        if found:
            yield f"{meaning}: {', '.join(found)}"
    for name, row in summary.items():
        if row.get("note") and not _alike(row):
            yield f"{name}: {row['note']}"


def benchmark_rows() -> list[dict[str, Any]]:
    """The table of benchmarks as plain data."""
    from ultrafuser.evaluation.benchmarks import BENCHMARKS

    return [
        {
            "name": name,
            "title": one.title,
            "domain": one.domain,
            "metric": one.metric,
            "needs": [one.needs.value, *one.uses],
            "chain_of_thought": one.has_chain_of_thought,
            "file": one.source.file,
            "hub": one.source.hub_id,
            "licence": one.source.licence or None,
            "reference": one.reference,
        }
        for name, one in BENCHMARKS.items()
    ]


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The same for a terminal of eighty columns, two lines each."""
    table = Table(box=None, pad_edge=False)
    for heading in ("benchmark", "domain\nmetric", "data file, licence\nneeds"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        file = f"{row['file']}/*.jsonl" if row["file"] == "loss" else f"{row['file']}.jsonl"
        licence = str(row["licence"] or "").partition(" (")[0]
        table.add_row(
            Text(row["name"], "bold").append(f"\n{row['title']}", "not bold dim"),
            Text(f"{row['domain']}\n{row['metric']}"),
            Text(f"{file}, {licence}" if licence else file).append(f"\n{', '.join(row['needs'])}", "dim"),
        )
    return table
