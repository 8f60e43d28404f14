"""Figure 4: the course of training: losses, checkpoints, and the weight of the right specialist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ultrafuser.analysis.svg import INK, draw
from ultrafuser.reproduce.cells import Item, loss_by_domain, weights_by_domain
from ultrafuser.reproduce.experiments import fused_runs
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Results, Run
from ultrafuser.reproduce.scales import ALL, GATE
from ultrafuser.reproduce.tables import table4
from ultrafuser.reproduce.tables.drawing import (
    WIDTH,
    column_colours,
    dress,
    legend_of,
    mean_curve,
    plot_smooth,
    whole_curve,
)
from ultrafuser.reproduce.tables.table import Picture, Table, TableSpec

TITLE = "Figure 4: the course of training"
TRAINING = "#868686"
STYLES = {"random": (0, (2, 2)), "balanced": "solid"}


def needs(plan: Plan) -> list[Run]:
    """The fused model and the trainings of Table 4."""
    return [*fused_runs(plan), *table4.needs(plan)]


def make(plan: Plan, results: Results) -> Table:
    """Both stages by training and validation loss; then Table 4's checkpoints by loss and by weight."""
    colours = {d: ink for d, ink in column_colours(plan).items() if d in plan.domains}
    found = results.all(fused_runs(plan))
    unequal = {sampler: results.all(table4.runs_of(plan, sampler)) for sampler in table4.SAMPLERS}
    pictures = []
    if found:
        svg = draw(lambda axes: _fill_losses(axes, plan, found, colours), "Losses over both stages", width=WIDTH)
        caption = "Line: training loss, mean over seeds. Dots: validation loss. The dotted line: stage 2 begins."
        pictures.append(Picture("The fused model.", svg, caption, [("training", TRAINING), *legend_of(colours)]))
    if all(unequal.values()):
        caption = "Held-out loss on the unequal data of Table 4. Solid: balanced batches. Dashed: random ones."
        svg = draw(lambda axes: _fill_checkpoints(axes, plan, unequal, colours), "Checkpoints", width=WIDTH)
        pictures.append(Picture("Checkpoints.", svg, caption, legend_of(colours)))
        caption = "Mean weight of the specialist of a domain's own name on its held-out items; trainings as above."
        svg = draw(lambda axes: _fill_weights(axes, plan, unequal, colours), "Weight of the right one", width=WIDTH)
        pictures.append(Picture("The gate.", svg, caption, legend_of(colours)))
    return Table(
        TITLE,
        "Of the paper's figure it is known here that it is about how long to train (its training settles at about "
        "5,000 steps); the drawing may differ.",
        pictures=pictures,
    )


def _fill_losses(axes: Any, plan: Plan, found: Sequence[Result], colours: Mapping[str, str]) -> None:
    steps, losses = mean_curve([whole_curve(one, [GATE, ALL]) for one in found])
    plot_smooth(axes, steps, losses, TRAINING)
    first = plan.open_recipe().stages[0].steps
    for stage, offset in ((GATE, 0), (ALL, first)):
        curves = [one["curves"][stage] for one in found]
        at = curves[0]["validation_steps"]
        for domain, ink in colours.items():
            rows = [[losses[domain] for losses in c["validation"] if domain in losses] for c in curves]
            if at and all(len(row) == len(at) for row in rows):
                means = [sum(values) / len(values) for values in zip(*rows, strict=True)]
                axes.plot([offset + step for step in at], means, color=ink, marker="o", markersize=4, linewidth=0.8)
    axes.axvline(first, color=INK, linewidth=0.6, linestyle=(0, (2, 3)), alpha=0.6)
    dress(axes, "step", "loss, nats per response token", whole=True)


def _fill_checkpoints(axes: Any, plan: Plan, found: Mapping[str, Sequence[Result]], colours: Mapping[str, str]) -> None:
    for sampler, results in found.items():
        steps = [checkpoint["step"] for checkpoint in results[0]["checkpoints"]]
        losses = [[loss_by_domain(_items(c), plan.columns) for c in one["checkpoints"]] for one in results]
        for domain, ink in colours.items():
            if all(domain in at for one in losses for at in one):
                rows = [[at[domain] for at in one] for one in losses]
                means = [sum(values) / len(values) for values in zip(*rows, strict=True)]
                axes.plot(steps, means, color=ink, linestyle=STYLES[sampler], marker="o", markersize=3, linewidth=1.3)
    dress(axes, "step of stage 2", "held-out loss", whole=True)


def _fill_weights(axes: Any, plan: Plan, found: Mapping[str, Sequence[Result]], colours: Mapping[str, str]) -> None:
    for sampler, results in found.items():
        steps = [checkpoint["step"] for checkpoint in results[0]["checkpoints"]]
        for domain, ink in colours.items():
            if domain not in plan.specialists:
                continue
            place = plan.specialists.index(domain)
            rows = [
                [weights_by_domain(_items(c), [domain], plan.specialists)[domain][place] for c in one["checkpoints"]]
                for one in results
            ]
            means = [sum(values) / len(values) for values in zip(*rows, strict=True)]
            axes.plot(steps, means, color=ink, linestyle=STYLES[sampler], marker="o", markersize=3, linewidth=1.3)
    axes.set_ylim(0, 1)
    dress(axes, "step of stage 2", "weight of the right specialist", whole=True)


def _items(checkpoint: Mapping[str, Any]) -> list[Item]:
    return [Item.of(row) for row in checkpoint["items"]]


TABLE = TableSpec(TITLE, needs, make)
