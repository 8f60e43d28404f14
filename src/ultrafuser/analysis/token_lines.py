"""Texts as lines of tokens on the colours of their specialists, as one inline SVG for a page that runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from ultrafuser.analysis.colours import colour, dominant, intensity

__all__ = ["Piece", "token_lines"]

CHARACTER, LINE, TITLE = 7.8, 21.0, 30.0  # sizes in the picture's own units


class Piece(NamedTuple):
    """A token's text, and the weight of each specialist at it."""

    text: str
    weights: Sequence[float]


def token_lines(texts: Sequence[tuple[str, Sequence[Piece]]], names: Sequence[str], *, columns: int = 96) -> str:
    """Titled texts below each other. A token's colour is its strongest specialist's, deeper the more it leads.

    Lines break at line ends and after `columns` characters; each token names its weights where the pointer rests on it.
    """
    parts: list[str] = []
    y = 0.0
    for title, pieces in texts:
        y += TITLE
        parts.append(f'<text class="title" x="0" y="{y - 8:.1f}">{escape(title)}</text>')
        column = 0
        for piece in pieces:
            tip = escape(", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, piece.weights, strict=True)))
            lines = piece.text.expandtabs(4).split("\n")
            for place, line in enumerate(lines):
                if place:
                    y, column = y + LINE, 0
                for start in range(0, len(line), columns) if line else []:
                    part = line[start : start + columns]
                    if column and column + len(part) > columns:
                        y, column = y + LINE, 0
                    parts.append(_token(part, piece.weights, tip, column * CHARACTER, y))
                    column += len(part)
        y += LINE
    width = columns * CHARACTER
    return (
        '<svg class="tokens" role="img" aria-label="Tokens coloured by the specialist with the largest weight" '
        f'viewBox="0 0 {width:.0f} {y + 6:.0f}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _token(text: str, weights: Sequence[float], tip: str, x: float, y: float) -> str:
    width = len(text) * CHARACTER
    ink, depth = colour(dominant(weights)), 0.12 + 0.5 * intensity(weights)
    return (
        f'<g><title>{tip}</title><rect x="{x:.1f}" y="{y + 1:.1f}" width="{width - 0.8:.1f}" height="{LINE - 3:.1f}" '
        f'fill="{ink}" fill-opacity="{depth:.2f}"/><text class="token" x="{x:.1f}" y="{y + 14:.1f}" '
        f'textLength="{width - 0.8:.1f}" lengthAdjust="spacingAndGlyphs" xml:space="preserve">{escape(text)}</text></g>'
    )
