"""Draws the report's loss curves as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ultrafuser.analysis.svg import INK, draw, running_mean
from ultrafuser.demo.results import Curve

CURVE_COLOURS = {"stage1": "#8c8c8c", "stage2": "#c2255c", "uniform_stage2": "#7048e8", "further_tuned": "#0c8599"}
CURVE_LABELS = {  # the legend is the page's own text
    "stage1": "fused, stage 1 (gate only)",
    "stage2": "fused, stage 2 (everything)",
    "uniform_stage2": "uniform weights, everything trained",
    "further_tuned": "one specialist further tuned",
}


def loss_curves(curves: Sequence[Curve], *, width: float = 8.6, height: float = 3.5) -> str:
    """Training loss per step (thin: as it was; thick: running mean) and validation loss (dots) as one inline SVG."""
    from matplotlib.ticker import MaxNLocator

    def fill(axes: Any) -> None:
        first_stage = next((curve.steps[-1] for curve in curves if curve.name == "stage1" and curve.steps), 0)
        for curve in curves:
            _draw(axes, curve, offset=0 if curve.name == "stage1" else first_stage)
        if first_stage:
            axes.axvline(first_stage, color=INK, linewidth=0.6, linestyle=(0, (2, 3)), alpha=0.6)
        axes.set_xlabel("step (the three trainings of everything start at the dotted line)")
        axes.set_ylabel("loss, nats per response token")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", linewidth=0.4, alpha=0.25, color=INK)

    return draw(fill, "Loss curves of the four trainings", width=width, height=height)


def _draw(axes: Any, curve: Curve, offset: int) -> None:
    ink = CURVE_COLOURS.get(curve.name, "#444444")
    steps = [step + offset for step in curve.steps]
    if steps:
        axes.plot(steps, curve.loss, color=ink, linewidth=0.5, alpha=0.3)
        axes.plot(steps, running_mean(curve.loss), color=ink, linewidth=1.6)
    if curve.validation_steps:
        at = [step + offset for step in curve.validation_steps]
        axes.plot(at, curve.validation_loss, color=ink, marker="o", markersize=4.5, linestyle="none")
