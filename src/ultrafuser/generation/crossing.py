"""Decoding where the specialists' tokenizers differ: one distribution over byte strings, a token stream for each.

The fused distribution is p(u) = sum_j w_j p_j(u) over the strings u that any specialist has as one token; p_j(u) is 0
where j has none. The string chosen is appended to the answer's bytes, and every specialist reads them on in its own
tokens: the one that spoke (u was its most likely token, or it gave u the largest share) with the token that it said,
the others with their tokenizer's own segmentation of the answer so far. So with all weight on one specialist its
tokens are just its own.

Shapes: B rows, N specialists, D hidden, V a specialist's own vocabulary, U strings of the union.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ultrafuser.generation.sampling import Sampling
from ultrafuser.generation.streams import Streams
from ultrafuser.modeling.inputs import forced_weights

__all__ = ["Chosen", "Union", "check_generation_config", "decode", "row_weights"]

PLAIN_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one row got in one step: a string, as canonical tokens.

    `took_part`: which specialists have the string as one token; `retokenised`: which took tokens back to read it;
    `last`: the answer ends with it.
    """

    row: int
    ids: list[int]
    weights: tuple[float, ...]
    logprob: float
    took_part: tuple[bool, ...]
    retokenised: tuple[bool, ...]
    last: bool


@dataclass
class _Row:
    """One answer on its way: its bytes, and the prompt and the answer in each specialist's own tokens."""

    number: int
    prompts: Sequence[Sequence[int]]
    said: bytes = b""
    answers: list[list[int]] = field(default_factory=list)

    def sequence(self, j: int) -> list[int]:
        """All that specialist j reads."""
        return [*self.prompts[j], *self.answers[j]]

    @property
    def length(self) -> int:
        """Tokens of the longest specialist's sequence."""
        return max(len(prompt) + len(own) for prompt, own in zip(self.prompts, self.answers, strict=True))


class Union:
    """The strings of all specialists as one vocabulary, on the model's device."""

    def __init__(self, alignment: Any, device: torch.device) -> None:
        self.alignment = alignment
        self.end: int = alignment.end
        self.to_union = [torch.as_tensor(places_V, device=device) for places_V in alignment.to_union]
        self.from_union = [torch.as_tensor(ids_U, device=device) for ids_U in alignment.from_union]
        # Tokens without text go to one place more, which is then left out.
        self.places = [places_V.where(places_V >= 0, alignment.size) for places_V in self.to_union]
        self.unwritable = torch.tensor(_unwritable(alignment), dtype=torch.long, device=device)

    def mix(self, weights_BN: Tensor, chances_BV: Sequence[Tensor]) -> Tensor:
        """The weighted sum of the specialists' probabilities for each string, (B, U)."""
        size = self.alignment.size
        total_BU = weights_BN.new_zeros(len(weights_BN), size + 1)
        for j, own_BV in enumerate(chances_BV):
            total_BU.index_add_(1, self.places[j], own_BV * weights_BN[:, j : j + 1])
        total_BU[:, self.unwritable] = 0
        return total_BU[:, :size]

    def string(self, u: int) -> bytes:
        """The bytes of a string; none where the answer ends."""
        return self.alignment.text(u) or b""

    def canonical(self, u: int) -> list[int]:
        """A string as canonical tokens."""
        table = self.alignment.tables[0]
        return [u] if u < len(table) else list(table.encode(self.string(u)))


def _unwritable(alignment: Any) -> list[int]:
    """Strings with bytes that no UTF-8 text contains, where some specialist could not read these."""
    bytes_each = [bytes([byte]) for byte in range(256)]
    lacking = [one for one in bytes_each if any(one not in table.ids for table in alignment.tables)]
    if not lacking:
        return []
    texts = ((u, alignment.text(u) or b"") for u in range(alignment.size))
    return [u for u, text in texts if any(one in text for one in lacking)]


def check_generation_config(config: Any) -> None:
    """Raise ValueError for settings that work on token ids: across tokenizers there is no such id."""
    for name, value in config.to_diff_dict().items():
        if name not in PLAIN_SETTINGS and not name.startswith("_") and value is not None:
            raise ValueError(
                f"generation_config.{name}: {value!r} is not supported where the specialists' tokenizers differ; "
                "take it out of the model's generation configuration"
            )


def row_weights(given: Any, rows: int, model: Any) -> Tensor:
    """Forced gate weights (N,) or (B, N) as (B, N). Raises ValueError for other shapes and what is no weights."""
    return forced_weights(given, torch.Size((rows, 1)), model.n_specialists, model.device)[:, 0]


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[Sequence[Sequence[int]]],
    sampling: Sampling,
    *,
    limit: int,
    gate_weights: Tensor | None = None,
    plain: bool = False,
) -> Iterator[list[Chosen]]:
    """Answers to prompts given as [row][specialist][ids], step by step; `gate_weights` (B, N) forces the gate.

    A row ends with any specialist's end of sequence, after `max_new_tokens` strings, or where a specialist's sequence
    reaches `limit` tokens; rows that have ended are left out at once. `plain` is the slow reference: one row at a
    time, everything computed again at every step.
    """
    union = Union(model.alignment, model.device)
    streams = Streams(model, plain=plain)
    rows = [_Row(number, own, answers=[[] for _ in own]) for number, own in enumerate(prompts)]
    forced_BN = gate_weights
    choose = _Chooser(sampling, model.device)
    places = list(range(len(rows)))
    for made in range(1, sampling.max_new_tokens + 1):
        hidden = streams.read(places, [[row.sequence(j) for row in rows] for j in range(model.n_specialists)])
        weights_BN = model._weigh([states[:, None] for states in hidden])[:, 0] if forced_BN is None else forced_BN
        own = [
            head.logits(states).softmax(-1).to(weights_BN.device)
            for head, states in zip(model.heads, hidden, strict=True)
        ]
        fused_BU = union.mix(weights_BN, own)
        picked = choose(fused_BU)
        spoken = _spoken(union, picked, weights_BN, own)
        logprobs = fused_BU.gather(1, picked[:, None]).squeeze(1).log().tolist()
        step, left = [], []
        for place, (row, u) in enumerate(zip(rows, picked.tolist(), strict=True)):
            retokenised = _take(row, union, u, spoken[place])
            last = u == union.end or made == sampling.max_new_tokens or row.length >= limit
            took_part = tuple(bool(ids[u] >= 0) for ids in union.alignment.from_union)
            weights = tuple(weights_BN[place].tolist())
            step.append(Chosen(row.number, union.canonical(u), weights, logprobs[place], took_part, retokenised, last))
            if not last:
                left.append(place)
        yield step
        if not left:
            return
        places, rows = left, [rows[place] for place in left]
        forced_BN = None if forced_BN is None else forced_BN[left]


class _Chooser:
    """The most likely string, or a sampled one; temperature, top-k and top-p act on the fused distribution."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.sample = sampling.temperature > 0
        self.generator = None if sampling.seed is None else torch.Generator(device).manual_seed(sampling.seed)
        self.warpers = LogitsProcessorList()
        if self.sample and sampling.temperature != 1:
            self.warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if self.sample and sampling.top_k:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if self.sample and sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, chances_BU: Tensor) -> Tensor:
        """Places in the union, (B,), from the fused probabilities, which need not sum to one."""
        if not self.sample:
            return chances_BU.argmax(-1)
        if self.warpers:
            chances_BU = self.warpers(None, chances_BU.log()).softmax(-1)
        return torch.multinomial(chances_BU, 1, generator=self.generator).squeeze(1)


def _spoken(union: Union, picked_B: Tensor, weights_BN: Tensor, chances_BV: Sequence[Tensor]) -> list[list[int]]:
    """The token that each specialist said itself, by row and specialist; -1 where it has to read the string."""
    columns, shares = [], []
    for j, own_BV in enumerate(chances_BV):
        best_B, token_B = own_BV.argmax(-1), union.from_union[j][picked_B]
        chance_B = own_BV.gather(1, token_B.clamp_min(0)[:, None]).squeeze(1)
        shares.append(chance_B * (token_B >= 0) * weights_BN[:, j])
        said_B = torch.where(union.to_union[j][best_B] == picked_B, best_B, -1)
        columns.append((said_B.tolist(), token_B.tolist()))
    speaker_B = torch.stack(shares, dim=-1).argmax(-1).tolist()
    return [
        [said[b] if said[b] >= 0 or speaker_B[b] != j else tokens[b] for j, (said, tokens) in enumerate(columns)]
        for b in range(len(picked_B))
    ]


def _take(row: _Row, union: Union, u: int, spoken: Sequence[int]) -> tuple[bool, ...]:
    """Append the string to the answer and to every specialist's tokens; which of them had to take tokens back."""
    if u == union.end:
        return (False,) * len(row.answers)
    row.said += union.string(u)
    retokenised = []
    for j, before in enumerate(row.answers):
        row.answers[j] = [*before, spoken[j]] if spoken[j] >= 0 else list(union.alignment.tables[j].encode(row.said))
        retokenised.append(row.answers[j][: len(before)] != before)
    return tuple(retokenised)
