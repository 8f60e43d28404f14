"""The heat map of gate weights per item, as one inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from ultrafuser.analysis.colours import colour

__all__ = ["Weighed", "heat_map"]

WIDTH, ROW, LEFT, GAP = 1040, 34, 84, 14


class Weighed(NamedTuple):
    """An item: its name, the kind that it is grouped by, the mean weight of each specialist (empty: not known)."""

    id: str
    group: str
    weights: Sequence[float]


def heat_map(items: Sequence[Weighed], names: Sequence[str]) -> str:
    """Items (columns, in groups) against specialists (rows); the stronger the colour, the more weight.

    As figure 6 of Ding et al., ACL 2025. Within a group the items stand in the order of the right specialist's weight.
    """
    groups: dict[str, list[Weighed]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    cell = (WIDTH - LEFT - GAP * (len(groups) - 1)) / max(1, len(items))
    parts: list[str] = []
    x = float(LEFT)
    for group, rows in groups.items():
        label_x = x + cell * len(rows) / 2
        parts.append(f'<text class="column" x="{label_x:.1f}" y="14" text-anchor="middle">{escape(group)}</text>')
        for item in _sorted(rows, names):
            parts.extend(_cells(item, names, x, cell))
            x += cell
        x += GAP
    for j, name in enumerate(names):
        y = 24 + ROW * j + ROW / 2 + 4
        parts.append(f'<text class="row" x="{LEFT - 10}" y="{y:.0f}" text-anchor="end">{escape(name)}</text>')
    height = 28 + ROW * len(names)
    return (
        f'<svg class="heat" role="img" aria-label="Mean gate weight of each specialist on each held-out item" '
        f'viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _sorted(rows: Sequence[Weighed], names: Sequence[str]) -> list[Weighed]:
    index = next((j for j, name in enumerate(names) if rows[0].group in name), 0)
    return sorted(rows, key=lambda item: -(item.weights or [0.0] * len(names))[index])


def _cells(item: Weighed, names: Sequence[str], x: float, cell: float) -> list[str]:
    parts = []
    for j, (name, weight) in enumerate(zip(names, item.weights or [], strict=True)):
        tip = escape(f"{item.id}: {name} {weight:.2f}")
        parts.append(
            f'<rect x="{x:.2f}" y="{24 + ROW * j}" width="{cell + 0.05:.2f}" height="{ROW - 2}" '
            f'fill="{colour(j)}" fill-opacity="{weight:.3f}"><title>{tip}</title></rect>'
        )
    return parts
