"""Draws the report's pictures as SVG text: loss curves (matplotlib) and the heat map of weights per held-out item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from ultrafuser.analysis.colours import colour
from ultrafuser.analysis.svg import INK, draw
from ultrafuser.demo.results import Curve, Item

CURVE_COLOURS = {"stage1": "#8c8c8c", "stage2": "#c2255c", "uniform_stage2": "#7048e8", "further_tuned": "#0c8599"}
CURVE_LABELS = {  # the legend is the page's own text
    "stage1": "fused, stage 1 (gate only)",
    "stage2": "fused, stage 2 (everything)",
    "uniform_stage2": "uniform weights, everything trained",
    "further_tuned": "one specialist further tuned",
}
HEAT_WIDTH, HEAT_ROW, HEAT_LEFT, HEAT_GAP = 1040, 34, 84, 14


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


def running_mean(values: Sequence[float], share: float = 0.06) -> list[float]:
    """Centred mean over a window of `share` of the values (at least 3), cut at the ends."""
    reach = max(1, round(len(values) * share / 2))
    return [
        sum(window) / len(window) for window in (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    ]


def heat_map(items: Sequence[Item], names: Sequence[str]) -> str:
    """Held-out items (columns, grouped by domain) against specialists (rows); the stronger the colour, the more weight.

    As figure 6 of Ding et al., ACL 2025. Within a group the items stand in the order of the right specialist's weight.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.category, []).append(item)
    cell = (HEAT_WIDTH - HEAT_LEFT - HEAT_GAP * (len(groups) - 1)) / max(1, len(items))
    parts: list[str] = []
    x = float(HEAT_LEFT)
    for category, rows in groups.items():
        label_x = x + cell * len(rows) / 2
        parts.append(f'<text class="column" x="{label_x:.1f}" y="14" text-anchor="middle">{escape(category)}</text>')
        for item in _sorted(rows, names):
            parts.extend(_cells(item, names, x, cell))
            x += cell
        x += HEAT_GAP
    for j, name in enumerate(names):
        y = 24 + HEAT_ROW * j + HEAT_ROW / 2 + 4
        parts.append(f'<text class="row" x="{HEAT_LEFT - 10}" y="{y:.0f}" text-anchor="end">{escape(name)}</text>')
    height = 28 + HEAT_ROW * len(names)
    return (
        f'<svg class="heat" role="img" aria-label="Mean gate weight of each specialist on each held-out item" '
        f'viewBox="0 0 {HEAT_WIDTH} {height}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _sorted(rows: Sequence[Item], names: Sequence[str]) -> list[Item]:
    category = rows[0].category
    index = next((j for j, name in enumerate(names) if category in name), 0)
    return sorted(rows, key=lambda item: -(item.weights or [0.0] * len(names))[index])


def _cells(item: Item, names: Sequence[str], x: float, cell: float) -> list[str]:
    parts = []
    for j, (name, weight) in enumerate(zip(names, item.weights or [], strict=True)):
        tip = escape(f"{item.id}: {name} {weight:.2f}")
        parts.append(
            f'<rect x="{x:.2f}" y="{24 + HEAT_ROW * j}" width="{cell + 0.05:.2f}" height="{HEAT_ROW - 2}" '
            f'fill="{colour(j)}" fill-opacity="{weight:.3f}"><title>{tip}</title></rect>'
        )
    return parts
