"""What Tables 1 and 11 share: the methods that stand beside the fused model, their runs and their paper's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ultrafuser.baselines import find_baseline
from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import Cell, Difference
from ultrafuser.reproduce.methods import OWN_STEPS, equal_operations_run, lacking, method_names, method_run
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run
from ultrafuser.reproduce.tables.table import Column, Finding, Verdict
from ultrafuser.reproduce.tasks import tasks_run

# The run of the specialists gives these already.
READ_ANYWAY = ("specialist", "uniform", "oracle")
# Whose figures of the paper's Table 1 stand beside a method; where only an average is printed, that alone.
PAPER_ROWS = {
    "further-tuned": "best further tuned",
    "average:text+math": "average",
    "task-arithmetic:1.0": "task arithmetic",
    "btx": "BTX",
    "fusechat": "FuseChat",
    "single": "one model",
}


def rivals(plan: Plan) -> list[str]:
    """The methods that are made and measured by runs of their own."""
    return method_names(plan, skip=READ_ANYWAY)


def runs_of(plan: Plan, method: str) -> list[Run]:
    """A method at equal steps, for every seed; none where a package is missing."""
    return [] if lacking(method) else [method_run(plan, method, seed) for seed in plan.seeds]


def equal_runs_of(plan: Plan, method: str) -> list[Run]:
    """A method at the fused model's training operations, for every seed; none where it trains until it is done."""
    out = lacking(method) or method in OWN_STEPS
    return [] if out else [equal_operations_run(plan, method, seed) for seed in plan.seeds]


def missing(method: str) -> str:
    """Why a method was not run: the package that is not installed."""
    package = lacking(method)
    return f"needs the package {package}, which is not installed" if package else ""


def tasks_of(plan: Plan, sources: Sequence[Run | str]) -> list[Run]:
    """The benchmarks of the scale, asked of the models that these runs left, or of specialists."""
    return [tasks_run(plan, source) for source in sources] if plan.settings.benchmarks else []


def task_columns(found: Iterable[Mapping[str, Cell]]) -> list[Column]:
    """A column for every benchmark in which some row has more than nothing."""
    names = dict.fromkeys(name for cells in found for name, cell in cells.items() if cell.mean > 0)
    return [Column(name, name, "percent", "high") for name in names]


def task_cells(found: Iterable[Result]) -> dict[str, Cell]:
    """Scores in percent by benchmark, one value for each seed's model."""
    by_name: dict[str, list[float]] = {}
    for result in found:
        for name, score in result["scores"].items():
            if score["score"] is not None:
                by_name.setdefault(name, []).append(100 * score["score"])
    return {name: cell for name, values in by_name.items() if (cell := Cell.of(values)) is not None}


def summary(method: str) -> str:
    """What the method is."""
    baseline, _ = find_baseline(method)
    return baseline.summary


def paper_scores(method: str) -> dict[str, float]:
    """The paper's Table 1 by domain for a method; its average alone where no more is printed."""
    if method in PAPER_ROWS:
        return by_domain(PAPER_ROWS[method])
    name, _, variant = method.partition(":")
    if name == "further-tuned" and variant in paper.FURTHER_TUNED:
        return {paper.AVERAGE: paper.FURTHER_TUNED[variant]}
    return {}


def against_all(gaps: Mapping[str, Difference], group: str) -> Finding:
    """The fused model against a group of rivals on the mean of the domains; a gap is the rival's loss less its own."""
    parts = {
        "better than": [label for label, gap in gaps.items() if gap.sign > 0],
        "level with": [label for label, gap in gaps.items() if gap.sign == 0],
        "worse than": [label for label, gap in gaps.items() if gap.sign < 0],
    }
    text = "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)
    verdict: Verdict = "no" if parts["worse than"] else "even" if parts["level with"] else "yes"
    return Finding(verdict, f"On the mean of the domains, among {group}, the fused model is {text}.")


def by_domain(row: str) -> dict[str, float]:
    """A row of the paper's Table 1: mean score of each domain's benchmarks, and the average of all seven."""
    scores = paper.scores(row)
    found: dict[str, float] = {}
    for domain in ("text", "code", "math"):
        own = [scores[name] for name in paper.BENCHMARKS if paper.DOMAIN_OF.get(name, "math") == domain]
        found[domain] = sum(own) / len(own)
    return {**found, paper.AVERAGE: scores[paper.AVERAGE]}
