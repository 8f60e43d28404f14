"""What decoding hands out: tokens with who spoke them, whole answers, and how different tokenizers met in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Crossings", "Generation", "TokenEvent", "crossings"]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of an answer and who spoke it.

    `text` is what the token adds to the answer ("" for the first bytes of an unfinished character and for special
    tokens); `weights` are the gate's, one per specialist, summing to one; `logprob` (nats) is the token's under the
    fused distribution itself, before temperature, top-p and top-k; `specialist_logprobs` the same under each
    specialist alone (filled by `score`).

    Only where tokenizers differ, and only at the first token of each string that was chosen: `took_part`, which
    specialists have the string as one token of theirs, so that they took part in the choice; `retokenised`, which had
    to take tokens back to read it.
    """

    token_id: int
    text: str
    weights: tuple[float, ...]
    logprob: float
    specialist_logprobs: tuple[float, ...] = ()
    took_part: tuple[bool, ...] = ()
    retokenised: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Crossings:
    """Per specialist the share of an answer's steps in which it took part in the choice, and was tokenised anew."""

    steps: int
    took_part: tuple[float, ...]
    retokenised: tuple[float, ...]

    def as_dict(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The shares by the specialists' names, for JSON files."""
        rows = zip(names, self.took_part, self.retokenised, strict=True)
        return {name: {"took_part": part, "retokenised": again} for name, part, again in rows}


@dataclass
class Generation:
    """One finished answer; `finished` is False when a length limit cut it off; `seconds` its whole batch took."""

    events: list[TokenEvent] = field(default_factory=list)
    finished: bool = False
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(event.text for event in self.events)

    @property
    def crossings(self) -> Crossings | None:
        """How the specialists' tokenizers met; None where all share one."""
        return crossings(self.events)


def crossings(events: Sequence[TokenEvent]) -> Crossings | None:
    """The shares over the steps of these events; None where the specialists share one tokenizer."""
    steps = [event for event in events if event.took_part]
    if not steps:
        return None
    took_part, retokenised = (
        tuple(sum(column) / len(steps) for column in zip(*rows, strict=True))
        for rows in ([event.took_part for event in steps], [event.retokenised for event in steps])
    )
    return Crossings(len(steps), took_part, retokenised)
