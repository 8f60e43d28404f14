"""How the next token is chosen: the settings of one call, checked when made, and forced gate weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ultrafuser.lookup import lookup

__all__ = ["Sampling", "only_weights"]


@dataclass(frozen=True)
class Sampling:
    """Settings of a decoding loop; temperature 0 takes the most likely token, top_k 0 and top_p 1 cut nothing."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} is too small; at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: {self.temperature} must be 0 (most likely token) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k: {self.top_k} must be 0 (off) or above")

    def arguments(self, room: int) -> dict[str, Any]:
        """Keyword arguments of `model.generate`; at most `room` new tokens."""
        arguments: dict[str, Any] = {
            "max_new_tokens": min(self.max_new_tokens, room),
            "do_sample": self.temperature > 0,
            "num_beams": 1,
            "num_return_sequences": 1,
        }
        if self.temperature > 0:
            arguments |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return arguments


def only_weights(names: Sequence[str], name: str) -> tuple[float, ...]:
    """Gate weights that let one specialist speak alone; an unknown name lists the names and the nearest."""
    index = lookup({one: place for place, one in enumerate(names)}, name, "only")
    return tuple(float(place == index) for place in range(len(names)))
