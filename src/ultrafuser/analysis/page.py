"""One self-contained HTML page: each token of an answer coloured by the specialists' weights, exact values on hover.

The page loads nothing from anywhere (a content security policy in it says so to the browser), and all text from the
model or the user is escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ultrafuser.analysis.colours import colour, dominant, intensity, mixture

if TYPE_CHECKING:
    from ultrafuser.generation.engine import TokenEvent

__all__ = ["PAGE_MARK", "Explanation", "Turn", "json_for_html", "render_page", "token_dict", "visible"]

PAGE_MARK = "ultrafuser explain"  # in the page's head: how a page of ours is told from another file


@dataclass(frozen=True)
class Turn:
    """One message: plain `text`, or `tokens` with weights. `pieces` are the vocabulary's own names of the tokens."""

    role: str
    text: str
    tokens: Sequence[TokenEvent] | None = None
    pieces: Sequence[str] = ()


@dataclass(frozen=True)
class Explanation:
    """What the page and the JSON file show. A token without weights (nothing before it) is shown but not counted."""

    title: str
    model: str
    names: Sequence[str]
    turns: Sequence[Turn]
    warning: str | None = None  # how an untrained gate is announced
    generated: bool = False  # the model chose the tokens itself
    detail: str = ""

    @property
    def tokens(self) -> list[TokenEvent]:
        """All tokens that carry weights, in order."""
        return [token for turn in self.turns for token in turn.tokens or () if token.weights]

    def mean_weights(self) -> dict[str, float]:
        """Mean weight of each specialist over the tokens."""
        return _means(self.names, [token.weights for token in self.tokens])

    def nats(self) -> float | None:
        """Mean -log p of the tokens under the fused model; None when there are none."""
        return -math.fsum(token.logprob for token in self.tokens) / len(self.tokens) if self.tokens else None

    def specialist_nats(self) -> dict[str, float]:
        """Mean -log p of the tokens under each specialist alone; empty where that was not computed, or where one that
        has another tokenizer cannot say some token."""
        rows = [token.specialist_logprobs for token in self.tokens]
        if not rows or not all(row and min(row) > -math.inf for row in rows):
            return {}
        return {name: -mean for name, mean in _means(self.names, rows).items()}

    def as_dict(self) -> dict[str, Any]:
        """The page's content as plain data."""
        return {
            "model": self.model,
            "specialists": list(self.names),
            "gate_trained": self.warning is None,
            "generated": self.generated,
            "mean_weights": self.mean_weights(),
            "nats_per_token": {"fused": self.nats(), **self.specialist_nats()},
            "turns": [self._turn_dict(turn) for turn in self.turns],
        }

    def _turn_dict(self, turn: Turn) -> dict[str, Any]:
        tokens = turn.tokens
        return {"role": turn.role, "text": turn.text} | (
            {} if tokens is None else {"tokens": [token_dict(token, self.names) for token in tokens]}
        )


def token_dict(token: TokenEvent, names: Sequence[str]) -> dict[str, Any]:
    """One token as plain data, weights and probabilities by specialist."""
    data: dict[str, Any] = {"id": token.token_id, "text": token.text}
    if token.weights:
        data |= {"weights": dict(zip(names, token.weights, strict=True)), "probability": math.exp(token.logprob)}
    if token.specialist_logprobs:
        alone = zip(names, map(math.exp, token.specialist_logprobs), strict=True)
        data["specialist_probabilities"] = dict(alone)
    return data


def visible(text: str) -> str:
    """Text with its white space made visible, for naming one token."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")


def render_page(page: Explanation) -> str:
    """The whole page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}%"
    source = resources.files("ultrafuser.analysis").joinpath("explain.html").read_text(encoding="utf-8")
    turns, data = _turns(page)
    return environment.from_string(source).render(
        page=page,
        mark=PAGE_MARK,
        lead=page.model + (f" · {page.detail}" if page.detail else ""),
        rows=_rows(page),
        count=len(page.tokens),
        has_alone=bool(page.specialist_nats()),
        nats=page.nats() if page.specialist_nats() else None,
        areas=_areas(page),
        turns=turns,
        data=json_for_html(data),
        footer="Made by ultrafuser explain. This page is one file and loads nothing from the network.",
    )


def _rows(page: Explanation) -> list[dict[str, Any]]:
    weights, nats, tokens = page.mean_weights(), page.specialist_nats(), page.tokens
    leads = [dominant(token.weights) for token in tokens]
    return [
        {
            "name": name,
            "colour": colour(j),
            "weight": weights[name],
            "leads": leads.count(j) / max(1, len(leads)),
            "nats": nats.get(name, 0.0),
        }
        for j, name in enumerate(page.names)
    ]


def _turns(page: Explanation) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The turns as the template draws them, and the values that the panel shows."""
    turns: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    for turn in page.turns:
        shown = None
        if turn.tokens is not None:
            shown = []
            for number, token in enumerate(turn.tokens):
                shown.append(_span(token, len(values)))
                name = turn.pieces[number] if number < len(turn.pieces) and not token.text else visible(token.text)
                values.append(_values(token, name, number))
        turns.append({"role": turn.role, "text": turn.text, "tokens": shown})
    names = list(page.names)
    return turns, {"names": names, "colours": [colour(j) for j in range(len(names))], "tokens": values}


def _span(token: TokenEvent, index: int) -> dict[str, Any]:
    if token.text:
        text, classes = token.text.replace("\n", "↵\n"), "t"
    else:
        text, classes = "▪", "t mark"  # a special token, or the first bytes of a character
    if not token.weights:
        return {"index": index, "shown": text, "classes": f"{classes} none", "style": ""}
    style = (
        f"--m:{mixture(token.weights)};--w:{colour(dominant(token.weights))};"
        f"--i:{intensity(token.weights):.2f};--s:{_stops(token.weights)}"
    )
    return {"index": index, "shown": text, "classes": classes, "style": style}


def _stops(weights: Sequence[float]) -> str:
    """Colour stops of a strip that shares out its width by the weights."""
    parts, start = [], 0.0
    for j, weight in enumerate(weights):
        end = start + 100 * weight
        if end - start >= 0.5:
            parts.append(f"{colour(j)} {start:.0f}% {end:.0f}%")
        start = end
    return ",".join(parts if len(parts) > 1 else [*parts, *parts])


def _values(token: TokenEvent, name: str, number: int) -> dict[str, Any]:
    return {
        "id": token.token_id,
        "text": name,
        "n": number,
        "w": [round(weight, 5) for weight in token.weights],
        "f": _chance(token.logprob) if token.weights else None,
        "p": [_chance(logprob) for logprob in token.specialist_logprobs],
    }


def _chance(logprob: float) -> float:
    return float(f"{math.exp(logprob):.4g}")


def _areas(page: Explanation) -> list[dict[str, str]]:
    """One stepped area per specialist, stacked from the bottom; x in tokens, y 0 to 100 from the top."""
    tokens = page.tokens
    areas, floor = [], [100.0] * len(tokens)
    for j in range(len(page.names)):
        top = [low - 100 * token.weights[j] for low, token in zip(floor, tokens, strict=True)]
        outline = "".join(f"L{x} {y:.2f}H{x + 1}" for x, y in enumerate(top))
        back = "".join(f"L{x + 1} {floor[x]:.2f}H{x}" for x in reversed(range(len(floor))))
        if tokens:
            areas.append({"colour": colour(j), "d": f"M0 {top[0]:.2f}{outline}{back}Z"})
        floor = top
    return areas


def _means(names: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, float]:
    return {name: math.fsum(row[j] for row in rows) / max(1, len(rows)) for j, name in enumerate(names)}


def json_for_html(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
