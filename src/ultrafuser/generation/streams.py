"""The specialists' own token streams for a batch of rows: they read what is new and take back what is tokenised anew.

Rows grow by different numbers of tokens and may lose some of their last ones, so the cache is kept tidy rather than
masked: before each pass the key/value pairs of the tokens that stay are moved together, right-aligned, and what is new
comes after them, padded on the right, at explicit positions. No hole ever lies between two tokens, so sliding windows,
which count slots of the cache, see the right tokens.

Specialists that share a module (adapters on one base) are rows of one pass, specialist-major.

Shapes: B rows (of all specialists of a module), S slots of the cache, Q columns of one pass, H heads, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ultrafuser.modeling.inputs import Columns
from ultrafuser.modeling.reading import read_module

__all__ = ["CachedStream", "PlainStream", "Streams"]


class Stream(Protocol):
    """What one module reads."""

    def read(self, rows: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
        """The hidden state (B, D) at the end of each sequence; sequence i goes on from row `rows[i]` of last time."""


class Streams:
    """All specialists' streams; `plain` is the slow reference."""

    def __init__(self, model: Any, *, plain: bool = False) -> None:
        self.groups = model.config.groups
        self.streams = [_open(getattr(model, group.name), len(group.members), plain) for group in self.groups]
        self.width = 0  # examples of the last call

    def read(self, places: Sequence[int], sequences: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
        """Each specialist's hidden states (examples, D) at the ends of `sequences`, [specialist][example][ids].

        Example i is example `places[i]` of the last call, gone on.
        """
        hidden: list[Any] = [None] * len(sequences)
        for group, stream in zip(self.groups, self.streams, strict=True):
            rows = [m * self.width + place for m in range(len(group.members)) for place in places]
            states = stream.read(rows, [ids for j in group.members for ids in sequences[j]])
            for j, part in zip(group.members, states.chunk(len(group.members)), strict=True):
                hidden[j] = part
        self.width = len(places)
        return hidden


class PlainStream:
    """The slow reference: every example by itself, from its beginning, without a cache."""

    def __init__(self, module: Any, members: int = 1) -> None:
        self.module = module
        self.members = members

    def read(self, rows: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
        """See `Stream.read`."""
        examples = len(sequences) // self.members
        found = [self._read(sequences[b::examples]) for b in range(examples)]
        return torch.stack(found, dim=1).flatten(0, 1)

    def _read(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """One example as each member reads it, (members, D); what pads shorter ones is never looked at."""
        width = max(map(len, sequences))
        ids = torch.tensor([[*own, *[0] * (width - len(own))] for own in sequences], device=self.module.device)
        states = read_module(self.module, Columns(ids), None)
        return torch.stack([row[len(own) - 1] for row, own in zip(states, sequences, strict=True)])


class CachedStream:
    """All rows in one pass, from a cache; equal to `PlainStream` but for rounding."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.cache = DynamicCache(config=module.config)
        self.cache.activate_past_recording()  # sliding layers too keep what a row may have to go back to
        self.held: list[list[int]] = []  # per row, the tokens whose key/value pairs are in the cache, prompt included
        self.starts: list[int] = []  # per row, the slot of the first of them
        self.slots = 0

    def read(self, rows: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
        """See `Stream.read`."""
        own = [list(ids) for ids in sequences]
        held = [self.held[row] for row in rows] if self.slots else [[] for _ in own]
        # The last token is read even where nothing is new: its hidden state is what was asked for.
        kept = [min(_shared(before, ids), len(ids) - 1) for before, ids in zip(held, own, strict=True)]
        if self.slots:
            self._tidy(rows, kept)
        else:
            self.starts = [0] * len(own)
        new = [ids[keep:] for ids, keep in zip(own, kept, strict=True)]
        columns = self._columns(kept, new)
        states_BQD = read_module(self.module, columns, self.cache)
        self.held, self.slots = own, self.slots + columns.input_ids.shape[1]
        ends_B = torch.tensor([len(ids) - 1 for ids in new], device=states_BQD.device)
        return states_BQD[torch.arange(len(own), device=states_BQD.device), ends_B]

    def _columns(self, kept: Sequence[int], new: Sequence[Sequence[int]]) -> Columns:
        """What is new, padded on the right; the mask hides the padding and what lies before each row's first slot."""
        width = max(map(len, new))
        device = self.module.device
        ids_BQ = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in new], device=device)
        places_Q = torch.arange(width, device=device)
        positions_BQ = torch.tensor(kept, device=device)[:, None] + places_Q
        if not any(self.starts) and all(len(ids) == width for ids in new):
            return Columns(ids_BQ, None, positions_BQ)
        before_BS = torch.arange(self.slots, device=device) >= torch.tensor(self.starts, device=device)[:, None]
        after_BQ = places_Q < torch.tensor([len(ids) for ids in new], device=device)[:, None]
        return Columns(ids_BQ, torch.cat([before_BS, after_BQ], dim=1).long(), positions_BQ)

    def _tidy(self, rows: Sequence[int], kept: Sequence[int]) -> None:
        """Keep the first `kept[i]` tokens of row `rows[i]` and nothing else, each row ending in the last slot."""
        starts = [self.starts[row] for row in rows]
        ends = {start + keep for start, keep in zip(starts, kept, strict=True)}
        if list(rows) == list(range(len(self.held))) and len(ends) == 1:
            (self.slots,) = ends  # all end alike: at most something is cut off
            pick = None
        else:
            self.slots = max(kept)
            shift = [start - (self.slots - keep) for start, keep in zip(starts, kept, strict=True)]
            pick = torch.tensor(shift)[:, None] + torch.arange(self.slots)  # negative in the padding: clamped
            pick = pick.clamp_min(0)
            starts = [self.slots - keep for keep in kept]
        self.starts = starts
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keys = self._moved(layer.keys, rows, pick)
                layer.values = self._moved(layer.values, rows, pick)
                if isinstance(layer, DynamicSlidingWindowLayer):
                    layer.cumulative_length = self.slots

    def _moved(self, states_BHSD: Tensor, rows: Sequence[int], pick_BS: Tensor | None) -> Tensor:
        if pick_BS is None:
            return states_BHSD[:, :, : self.slots]
        rows_B1 = torch.tensor(rows, device=states_BHSD.device)[:, None]
        return states_BHSD[rows_B1, :, pick_BS.to(states_BHSD.device)].transpose(1, 2)


def _open(module: Any, members: int, plain: bool) -> Stream:
    """A cached stream; a plain one where asked for, or where the architecture keeps more than key/value pairs."""
    stream = CachedStream(module)
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    fits = bool(stream.cache.layers) and all(type(layer) in known for layer in stream.cache.layers)
    return stream if fits and not plain else PlainStream(module, members)


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    if other[: len(one)] == one:
        return len(one)
    return next(k for k, (a, b) in enumerate(zip(one, [*other, None], strict=False)) if a != b)
