"""Writes runs as one self-contained HTML page: scores with error bars, sub-scores, gate weights, every item."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from markupsafe import Markup

from ultrafuser.evaluation.report_items import json_for_html, pack, specialist_names
from ultrafuser.evaluation.report_tables import benchmark_blocks, facts, gate_tables, matrix, settings_tables

if TYPE_CHECKING:
    from ultrafuser.evaluation.compare import Comparison
    from ultrafuser.evaluation.record import Run

__all__ = ["PALETTE", "render"]

# The house's colours of specialists, `ultrafuser.analysis.colours.PALETTE`, which this layer may not import.
PALETTE = ("#2f6fe0", "#d2691e", "#2fc0a8", "#895a7d", "#c8c42e", "#a78ff0", "#b63c2e", "#a9bcf2")
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # halves of surrogate pairs, which models can write


def render(runs: Sequence[Run], comparison: Comparison) -> str:
    """The whole page as text; `comparison` is `compare_runs(runs)`. It loads nothing, and runs no script but its own.

    Whatever models and data hold is escaped, and the page's policy allows its own script by hash only.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.0f}"
    names = specialist_names(runs)
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}
    script = _resource("report.js")
    page = environment.from_string(_resource("report.html")).render(
        facts=facts(runs, comparison),
        comparison=comparison,
        matrix=matrix(comparison) if len(runs) > 1 else [],
        blocks=benchmark_blocks(comparison),
        gates=gate_tables(runs, comparison, names),
        colours=colours,
        settings=settings_tables(runs, comparison),
        data=Markup(json_for_html(pack(runs, comparison, colours))),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return _UNWRITABLE.sub("\ufffd", page)


def _resource(name: str) -> str:
    return resources.files("ultrafuser.evaluation").joinpath(name).read_text(encoding="utf-8")
