"""What the figures share: colours of domains and methods, curves over a whole training, means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ultrafuser.analysis.colours import NEUTRAL, colour
from ultrafuser.analysis.svg import INK, running_mean
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result

WIDTH = 6.8  # inches, of all pictures
UNKNOWN = "What the paper draws under this number is not known here: this one may show something else."
Legend = list[tuple[str, str]]


def column_colours(plan: Plan) -> dict[str, str]:
    """A domain has the colour of the specialist of its name, else the next; what nothing is trained on is grey."""
    names = plan.specialists
    free = iter(range(len(names), len(names) + len(plan.domains)))
    colours = {d: colour(names.index(d) if d in names else next(free)) for d in plan.domains}
    return {**colours, **dict.fromkeys(plan.extra, NEUTRAL)}


def legend_of(colours: Mapping[str, str]) -> Legend:
    """A legend in the order of the colours."""
    return list(colours.items())


def whole_curve(result: Result, stages: Sequence[str] | None = None) -> tuple[list[int], list[float]]:
    """Steps and training losses of a run's stages one after the other; of stages named, else in the run's own order."""
    steps: list[int] = []
    losses: list[float] = []
    done = 0
    for name in stages or result["curves"]:
        curve = result["curves"][name]
        steps += [done + step for step in curve["steps"]]
        losses += curve["loss"]
        done = max([done, *steps])
    return steps, losses


def mean_curve(found: Sequence[tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    """The mean over seeds, at the steps that all have."""
    if not found:
        return [], []
    common = sorted(set.intersection(*(set(steps) for steps, _ in found)))
    by_step = [dict(zip(steps, losses, strict=True)) for steps, losses in found]
    return common, [sum(one[step] for one in by_step) / len(by_step) for step in common]


def plot_smooth(axes: Any, steps: Sequence[int], losses: Sequence[float], ink: str, **style: Any) -> None:
    """A curve as it is, thin, and its running mean."""
    axes.plot(steps, losses, color=ink, linewidth=0.5, alpha=0.3)
    axes.plot(steps, running_mean(losses), color=ink, linewidth=1.6, **style)


def dress(axes: Any, x: str, y: str, *, whole: bool = False) -> None:
    """Labels and a light grid; `whole` numbers below."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", linewidth=0.4, alpha=0.25, color=INK)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
