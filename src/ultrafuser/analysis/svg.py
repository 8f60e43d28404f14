"""Pictures by matplotlib as SVG text for a page: they take the page's text colour and load nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

__all__ = ["INK", "draw", "running_mean"]

INK = "#13579b"  # stands for the page's text colour in matplotlib's output, replaced by currentColor
_STYLE = {
    "svg.hashsalt": "ultrafuser",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def draw(fill: Callable[[Any], None], title: str, *, width: float = 8.6, height: float = 3.5) -> str:
    """What `fill` draws on matplotlib axes, as one inline SVG; `title` is read out in its place."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        fill(axes)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), title)


def running_mean(values: Sequence[float], share: float = 0.06) -> list[float]:
    """Centred mean over a window of `share` of the values (at least 3), cut at the ends."""
    reach = max(1, round(len(values) * share / 2))
    return [
        sum(window) / len(window) for window in (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    ]


def _inline(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label={quoteattr(title)}', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace(INK, "currentColor")
