"""Table 4: how steady training is over its checkpoints with and without balanced batches, on unequal data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean, stdev

from ultrafuser.recipe import StageConfig
from ultrafuser.reproduce import paper
from ultrafuser.reproduce.cells import MEAN, Cell, Item, loss_by_domain
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.subsets import subset_runs
from ultrafuser.reproduce.tables.table import Column, Finding, Row, Table, TableSpec, Verdict, loss_columns

TITLE = "Table 4: steadiness over checkpoints on unequal data"
WEIGHTS = (7, 2, 1)  # the domains' shares of the data, in their order; every further one is as rare as the third
SAMPLERS = {"random": "random batches", "balanced": "balanced batches"}
MEANS, SD, JUMPS, LAST = "mean", "sd", "jumps", "last"
GROUPS = {
    MEANS: "mean over the checkpoints",
    SD: "deviation over the checkpoints",
    JUMPS: "deviation without the trend",
    LAST: "the last checkpoint",
}
Series = dict[str, list[float]]  # column -> loss at each checkpoint


def shares(plan: Plan) -> dict[str, float]:
    """What part of each domain's data is used, so that the domains stand as WEIGHTS; the first keeps all."""
    domains = plan.domains
    return {name: WEIGHTS[min(place, 2)] / WEIGHTS[0] for place, name in enumerate(domains)}


def runs_of(plan: Plan, sampler: str) -> list[Run]:
    """The trainings with one sampler, one for each seed."""
    stages: list[StageConfig] = [
        stage.model_copy(update={"sampler": sampler, "eval_every": 0}) for stage in plan.open_recipe().stages
    ]
    count = plan.settings.checkpoints
    return subset_runs(plan, f"unequal-{sampler}", shares=shares(plan), checkpoints=count, stages=stages)


def needs(plan: Plan) -> list[Run]:
    """Both samplers with every seed."""
    return [run for sampler in SAMPLERS for run in runs_of(plan, sampler)]


def series(plan: Plan, result: Result) -> Series:
    """The held-out loss at each checkpoint by column, and the mean of the domains."""
    found: Series = {}
    for checkpoint in result["checkpoints"]:
        losses = loss_by_domain([Item.of(row) for row in checkpoint["items"]], plan.columns)
        if all(name in losses for name in plan.domains):
            losses[MEAN] = fmean(losses[name] for name in plan.domains)
        for name, loss in losses.items():
            found.setdefault(name, []).append(loss)
    return found


def deviation(values: Sequence[float]) -> float:
    """Sample deviation; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def jumps(values: Sequence[float]) -> float:
    """The deviation that neighbours' differences speak of (von Neumann): what is left when a slow trend is not counted.

    The root of half the mean squared difference of neighbours; for values without any trend it is their deviation.
    """
    steps = [after - before for before, after in pairwise(values)]
    return (fmean(step * step for step in steps) / 2) ** 0.5 if steps else 0.0


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    MEANS: fmean,
    SD: deviation,
    JUMPS: jumps,
    LAST: lambda values: values[-1],
}


def make(plan: Plan, results: Results) -> Table:
    """Rows samplers, grouped by what is computed over a training's checkpoints; cells are means over seeds."""
    found = {sampler: [series(plan, r) for r in results.all(runs_of(plan, sampler))] for sampler in SAMPLERS}
    rows = []
    for kind, group in GROUPS.items():
        for sampler, label in SAMPLERS.items():
            rows.append(
                Row(
                    f"{sampler}_{kind}",
                    label,
                    _cells(found[sampler], STATISTICS[kind]),
                    _drawn(results.all(runs_of(plan, sampler))) if kind == MEANS else "",
                    group,
                    ours=sampler == "balanced",
                    paper=paper.TABLE_4.get(kind, {}).get(sampler, {}),
                    missing=results.why(runs_of(plan, sampler)) if kind == MEANS else "",
                )
            )
    count = plan.settings.checkpoints
    return Table(
        TITLE,
        f"Held-out loss in nats per response token at {count} checkpoints of stage 2, from two ninths of it to its "
        "end (the paper's are steps 2,000 to 9,000). The training data are made unequal on purpose, "
        f"{_parts(plan)}. The table looks at every checkpoint and chooses none; ± is over seeds. As losses fall "
        "during training, the deviation over checkpoints holds that fall too; the one without the trend leaves it out.",
        loss_columns(plan),
        rows,
        paper_columns=[Column(d, f"{d}: {paper.TABLE_2_BENCHMARKS[d]}", "percent") for d in paper.TABLE_2_BENCHMARKS],
        paper_text="The paper's figures are scores in percent over 12 checkpoints: a high mean and a low deviation "
        "are good. Its own data are nearly equal (100,000, 100,000 and 110,000).",
        findings=_findings(found),
        first="training",
        best_by_group=True,
    )


def _parts(plan: Plan) -> str:
    whole = sum(shares(plan).values())
    return ", ".join(f"{round(100 * share / whole)}% {name}" for name, share in shares(plan).items())


def _drawn(found: Sequence[Result]) -> str:
    if not found:
        return ""
    return "conversations: " + ", ".join(f"{count} {name}" for name, count in found[0]["drawn"].items())


def _cells(found: Sequence[Series], statistic: Callable[[Sequence[float]], float]) -> dict[str, Cell]:
    names = dict.fromkeys(name for one in found for name in one)
    cells = {name: Cell.of(statistic(one[name]) for one in found if name in one) for name in names}
    return {name: cell for name, cell in cells.items() if cell is not None}


def _findings(found: dict[str, list[Series]]) -> list[Finding]:
    """Is training with balanced batches steadier, and is it better: seed by seed, on the mean of the domains."""
    pairs = [
        (random[MEAN], balanced[MEAN])
        for random, balanced in zip(found["random"], found["balanced"], strict=False)
        if MEAN in random and MEAN in balanced
    ]
    if not pairs or len(found["random"]) != len(found["balanced"]):
        return []
    texts = {
        SD: "steadier over checkpoints (deviation)",
        JUMPS: "steadier from checkpoint to checkpoint (deviation without the trend)",
        MEANS: "better on the mean of the checkpoints",
    }
    found_of = {kind: [(STATISTICS[kind](a), STATISTICS[kind](b)) for a, b in pairs] for kind in texts}
    return [_finding(text, found_of[kind]) for kind, text in texts.items()]


def _finding(text: str, pairs: Sequence[tuple[float, float]]) -> Finding:
    won = sum(balanced < random for random, balanced in pairs)
    verdict: Verdict = "even"
    if len(pairs) > 1 and won in (0, len(pairs)):
        verdict = "yes" if won else "no"
    random, balanced = (fmean(pair[place] for pair in pairs) for place in (0, 1))
    tail = f"in {won} of {len(pairs)} seeds ({random:.4f} with random batches, {balanced:.4f} with balanced ones)"
    caution = " One seed is no answer." if len(pairs) == 1 else ""
    return Finding(verdict, f"Balanced batches are {text} on the mean of the domains {tail}.{caution}")


TABLE = TableSpec(TITLE, needs, make)
