"""One self-contained HTML page of a data set: every instruction as a point, and how varied the domains are."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from ultrafuser.analysis.colours import colour
from ultrafuser.analysis.diversity import Diversity, Item
from ultrafuser.analysis.page import json_for_html
from ultrafuser.analysis.svg import draw

__all__ = ["DataPage", "figure_png", "render_data_page"]

LONGEST_SHOWN = 1200  # characters of an instruction on the page
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")  # of matplotlib, one shape a domain beside its colour


@dataclass(frozen=True)
class DataPage:
    """What the page shows: items, their (n, 2) places between -1 and 1, the figures of their domains."""

    title: str
    model: str
    method: str
    items: Sequence[Item]
    places: np.ndarray
    domains: Sequence[Diversity]

    @property
    def names(self) -> list[str]:
        """The domains' names; their place is their colour."""
        return [one.domain for one in self.domains]

    def as_dict(self) -> dict[str, Any]:
        """The figures and every point as plain data."""
        return {
            "model": self.model,
            "method": self.method,
            "domains": [_figures(one) for one in self.domains],
            "points": [
                {"domain": item.domain, "x": x, "y": y, "sub_topic": item.sub_topic, "text": item.text}
                for item, (x, y) in zip(self.items, self.places.round(4).tolist(), strict=True)
            ],
        }


def render_data_page(page: DataPage) -> str:
    """The whole page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("ultrafuser.analysis").joinpath("data.html").read_text(encoding="utf-8")
    names = page.names
    points = [
        [names.index(item.domain), x, y, item.text[:LONGEST_SHOWN], item.sub_topic or item.meta_topic or ""]
        for item, (x, y) in zip(page.items, page.places.round(3).tolist(), strict=True)
    ]
    colours = [colour(j) for j in range(len(names))]
    return environment.from_string(source).render(
        page=page,
        rows=[{"colour": colours[j], **_figures(one)} for j, one in enumerate(page.domains)],
        compared=page.domains[0].compared,
        method={"tsne": "t-SNE", "pca": "principal components"}.get(page.method, page.method),
        charts=_charts(page),
        data=json_for_html({"names": names, "colours": colours, "points": points}),
    )


def figure_png(page: DataPage) -> bytes:
    """The points by domain as a picture for a paper, 300 dots per inch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for j, name in enumerate(page.names):
        mine = np.array([item.domain == name for item in page.items])
        xs, ys = page.places[mine].T
        size = 12 if len(page.items) < 2000 else 3
        axes.scatter(xs, ys, s=size, marker=MARKERS[j % 8], color=colour(j), linewidths=0, alpha=0.75, label=name)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.legend(frameon=False, markerscale=1.6, loc="best")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=300, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _figures(one: Diversity) -> dict[str, Any]:
    return {
        "domain": one.domain,
        "items": one.items,
        "words": one.words,
        "vocabulary": one.vocabulary,
        "median_length": one.median_length,
        "distinct": [round(share, 4) for share in one.distinct.values()],
        "exact_copies": one.exact_copies,
        "topics": one.topics,
        "largest_topic": one.largest_topic,
        "evenness": one.evenness,
        "nearest": round(float(np.median(one.nearest)), 4) if one.nearest else None,
    }


def _charts(page: DataPage) -> list[dict[str, str]]:
    rows: list[tuple[str, str, Callable[[Any], None]]] = [
        (
            "Growth of the vocabulary",
            "Distinct words among the words read so far: the steeper, the more varied.",
            lambda axes: _growth(axes, page.domains),
        ),
        (
            "Nearest neighbour",
            "Cosine similarity of each instruction to the most similar other one of its domain, from the model's mean "
            "states less their common mean. A heap at 1 means near-copies.",
            lambda axes: _histogram(axes, [one.nearest for one in page.domains], page.names, "similarity"),
        ),
        (
            "Lengths",
            "Words per instruction.",
            lambda axes: _histogram(axes, [one.lengths for one in page.domains], page.names, "words"),
        ),
    ]
    if any(one.topics for one in page.domains):
        rows.append(
            (
                "Topics",
                "Instructions of each topic, the largest first: a level line means even coverage.",
                lambda axes: _topics(axes, page),
            )
        )
    return [
        {"title": title, "note": note, "svg": draw(fill, title, width=5.4, height=2.9)} for title, note, fill in rows
    ]


def _growth(axes: Any, domains: Sequence[Diversity]) -> None:
    for j, one in enumerate(domains):
        axes.plot(*zip(*one.growth, strict=True), color=colour(j), label=one.domain)
    axes.set(xlabel="words read", ylabel="distinct words", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)


def _histogram(axes: Any, values: Sequence[Sequence[float]], names: Sequence[str], label: str) -> None:
    found = np.concatenate([np.asarray(some, dtype=float) for some in values])
    edges = np.linspace(found.min(), max(found.max(), found.min() + 1e-6), 31)
    for j, (some, name) in enumerate(zip(values, names, strict=True)):
        counts, _ = np.histogram(some, bins=edges)
        axes.stairs(counts / max(1, len(some)), edges, color=colour(j), label=name, linewidth=1.6)
    axes.set(xlabel=label, ylabel="share of instructions", ylim=(0, None))
    axes.legend(frameon=False)


def _topics(axes: Any, page: DataPage) -> None:
    for j, name in enumerate(page.names):
        counts = Counter(item.sub_topic or item.meta_topic for item in page.items if item.domain == name)
        counts.pop(None, None)
        sizes = sorted(counts.values(), reverse=True)
        if sizes:
            axes.step(range(1, len(sizes) + 1), sizes, where="mid", color=colour(j), label=name)
    axes.set(xlabel="topic", ylabel="instructions", ylim=(0, None))
    axes.legend(frameon=False)
