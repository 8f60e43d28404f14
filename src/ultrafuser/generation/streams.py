"""One specialist's own token stream for a batch of rows: it reads what is new and takes back what is tokenised anew.

Rows grow by different numbers of tokens and may lose some of their last ones, so the cache is kept tidy rather than
masked: before each pass the key/value pairs of the tokens that stay are moved together, right-aligned, and what is new
comes after them, padded on the right, at explicit positions. No hole ever lies between two tokens, so sliding windows,
which count slots of the cache, see the right tokens.

Shapes: B rows, S slots of the cache, Q columns of one pass, H heads, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ultrafuser.modeling.inputs import Columns

__all__ = ["CachedStream", "PlainStream", "Stream", "open_stream"]


class Stream(Protocol):
    """What decoding wants of a stream."""

    def read(self, rows: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
        """The hidden state (B, D) at the end of each sequence; sequence i goes on from row `rows[i]` of last time."""


class PlainStream:
    """The slow reference: every sequence by itself, from its beginning, without a cache."""

    def __init__(self, model: Any, specialist: int) -> None:
        self.model = model
        self.specialist = specialist

    def read(self, rows: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
        """See `Stream.read`."""
        return torch.cat([self._read(ids) for ids in sequences])

    def _read(self, ids: Sequence[int]) -> Tensor:
        columns = Columns(torch.tensor([list(ids)], device=self.model.specialist(self.specialist).device))
        states_1TD: Tensor = self.model._read(self.specialist, columns, None)
        return states_1TD[:, -1]


class CachedStream:
    """All rows in one pass, from a cache; equal to `PlainStream` but for rounding."""

    def __init__(self, model: Any, specialist: int) -> None:
        self.model = model
        self.specialist = specialist
        self.cache = DynamicCache(config=model.specialist(specialist).config)
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
        states_BQD: Tensor = self.model._read(self.specialist, columns, self.cache)
        self.held, self.slots = own, self.slots + columns.input_ids.shape[1]
        ends_B = torch.tensor([len(ids) - 1 for ids in new], device=states_BQD.device)
        return states_BQD[torch.arange(len(own), device=states_BQD.device), ends_B]

    def _columns(self, kept: Sequence[int], new: Sequence[Sequence[int]]) -> Columns:
        """What is new, padded on the right; the mask hides the padding and what lies before each row's first slot."""
        width = max(map(len, new))
        device = self.model.specialist(self.specialist).device
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


def open_stream(model: Any, specialist: int, *, plain: bool = False) -> Stream:
    """A cached stream; a plain one where asked for, or where the architecture keeps more than key/value pairs."""
    if plain:
        return PlainStream(model, specialist)
    stream = CachedStream(model, specialist)
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    layers = stream.cache.layers
    return stream if layers and all(type(layer) in known for layer in layers) else PlainStream(model, specialist)


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    if other[: len(one)] == one:
        return len(one)
    return next(k for k, (a, b) in enumerate(zip(one, [*other, None], strict=False)) if a != b)
