"""Coloured tokens for a terminal: the colour says who leads, how strong it is by how much. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from ultrafuser.analysis.colours import colour, shade

if TYPE_CHECKING:
    from ultrafuser.generation.engine import TokenEvent

FILLS = "█▒░▓"

__all__ = ["coloured", "legend", "piece", "weights_line"]


def piece(text: str, weights: Sequence[float]) -> Text:
    """One token's text in the colour of the specialist that leads, the paler the less it leads."""
    return Text(text, style=Style(color=shade(weights))) if weights else Text(text)


def coloured(tokens: Iterable[TokenEvent]) -> Text:
    """An answer with every token coloured."""
    return Text.assemble(*(piece(token.text, token.weights) for token in tokens))


def legend(names: Sequence[str]) -> Text:
    """The specialists' names, each in its colour."""
    return Text("  ").join(Text(f"■ {name}", style=Style(color=colour(j))) for j, name in enumerate(names))


def weights_line(means: Mapping[str, float], width: int = 30, *, plain: bool = False) -> Text:
    """A stacked bar of mean weights, then each name with its share; `plain` tells the parts apart without colour."""
    line, used, total = Text(), 0, 0.0
    for j, weight in enumerate(means.values()):
        total += weight
        cells = round(total * width) - used
        line.append(FILLS[j % len(FILLS) if plain else 0] * cells, style=Style(color=colour(j)))
        used += cells
    for j, (name, weight) in enumerate(means.items()):
        mark = f"{FILLS[j % len(FILLS)]} " if plain else ""
        line.append(f"  {mark}{name} {100 * weight:.0f}%", style=Style(color=colour(j)))
    return line
