"""Rules that know the losses: the best specialist for each domain and for each sample. Bounds, not methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.lookup import lookup

if TYPE_CHECKING:
    from ultrafuser.baselines.scores import Scores

__all__ = ["VARIANTS", "best_per_domain", "best_per_sample", "oracle", "oracle_scores", "oracle_variants"]

VARIANTS = {
    "domain": "In each domain the specialist with the lowest loss on the very data that it is measured on.",
    "sample": "For each sample the specialist with the lowest loss on it: no router of whole samples can do better.",
}


class Reading(Protocol):
    """One item as one model read it."""

    @property
    def id(self) -> str:
        """The item's id."""

    @property
    def domain(self) -> str:
        """Its domain."""

    @property
    def nats(self) -> float:
        """Its loss, summed over its response tokens."""

    @property
    def tokens(self) -> int:
        """Its response tokens."""


Row = TypeVar("Row", bound=Reading)


def oracle_variants(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """Both rules."""
    return tuple(VARIANTS)


def oracle(setting: Setting) -> Made:
    """Nothing is trained and no model is made: see `oracle_scores`. Variant: domain or sample."""
    from ultrafuser.baselines.counting import parameters

    note = lookup(VARIANTS, setting.variant, "variant")
    return Made(None, 0, max(parameters(setting.open(name)) for name in setting.names), 0, 0, note)


def oracle_scores(setting: Setting, part: str) -> Scores:
    """Each sample as the specialist that the variant picks reads it."""
    from ultrafuser.baselines.choosing import specialist_losses
    from ultrafuser.baselines.scores import Scores

    lookup(VARIANTS, setting.variant, "variant")
    readings = {name: Scores.of(loss).rows for name, loss in specialist_losses(setting, part).items()}
    return Scores(best_per_sample(readings) if setting.variant == "sample" else best_per_domain(readings))


def best_per_sample(readings: Mapping[str, Sequence[Row]]) -> list[Row]:
    """For each item the reading with the lowest loss; ties go to the model named first.

    Raises ValueError where the models read different items.
    """
    return [min(same, key=lambda row: row.nats) for same in _side_by_side(readings)]


def best_per_domain(readings: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Each item as the model with the lowest loss in its domain read it (the paper's "best specialist").

    Ties go to the model named first. Raises ValueError where the models read different items.
    """
    losses = [_losses(rows) for rows in readings.values()]
    best = {domain: min(range(len(losses)), key=lambda j: losses[j][domain]) for domain in losses[0]}
    return [same[best[same[0].domain]] for same in _side_by_side(readings)]


def _side_by_side(readings: Mapping[str, Sequence[Row]]) -> Iterable[tuple[Row, ...]]:
    rows = list(readings.values())
    keys = [[(row.id, row.tokens) for row in own] for own in rows]
    if any(other != keys[0] for other in keys[1:]):
        raise ValueError(f"items: {', '.join(readings)} read different items or token counts; measure them again")
    return zip(*rows, strict=True)


def _losses(rows: Sequence[Reading]) -> dict[str, float]:
    """Nats per response token of each domain."""
    nats, tokens = dict.fromkeys((row.domain for row in rows), 0.0), dict.fromkeys((row.domain for row in rows), 0)
    for row in rows:
        nats[row.domain] += row.nats
        tokens[row.domain] += row.tokens
    return {domain: nats[domain] / tokens[domain] for domain in nats}
