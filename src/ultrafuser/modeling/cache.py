"""One cache object that holds a key/value cache for each group of specialists and moves them as one.

All caches have the same number of columns (prompts are left-padded to one length), so a position in one is the same
visible position in every other; what differs is which columns are padding, and that lives in the prompt masks.
A group of n specialists on one base has n x B rows, specialist-major: example b of its specialist j is row j * B + b.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache


class SpecialistCache(Cache):
    """Several caches as one `Cache`: reorder, crop, repeat, select, reset act on all of them.

    `caches` holds one for each group, `sizes` how many specialists each serves. `get_seq_length` counts visible
    columns. Cropping is inherited and works through `layers`. `answer_weights` (B, N) are those that a gate which
    `holds` gave the answers, None before it did.
    """

    def __init__(self, caches: Sequence[Cache], sizes: Sequence[int] | None = None) -> None:
        # Not Cache.__init__: it wants to own the layers, here they belong to the caches.
        self.caches = list(caches)
        self.sizes = [1] * len(self.caches) if sizes is None else list(sizes)
        self.layer_class_to_replicate = None
        self.offloading = any(cache.offloading for cache in self.caches)
        self.answer_weights: torch.Tensor | None = None

    @classmethod
    def for_configs(
        cls, configs: Sequence[PreTrainedConfig], sizes: Sequence[int] | None = None, **kwargs: Any
    ) -> "SpecialistCache":
        """A fresh dynamic cache for each configuration; `kwargs` go to `DynamicCache` (for example offloading=True)."""
        return cls([DynamicCache(config=config, **kwargs) for config in configs], sizes)

    @property
    def layers(self) -> list[Any]:  # type: ignore[override]
        """The layers of all caches, one after the other."""
        return [layer for cache in self.caches for layer in cache.layers]

    @property
    def batch_size(self) -> int:
        """Examples B of which layers hold states, -1 before the first pass."""
        found = (rows // n for cache, n in zip(self.caches, self.sizes, strict=True) if (rows := _rows(cache)) > 0)
        return next(found, -1)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen so far, padding included: the same number for every specialist."""
        return self.caches[0].get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As for the first cache."""
        return self.caches[0].get_mask_sizes(query_length, layer_idx)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row b of every specialist becomes its row `beam_idx[b]`."""
        for cache, n in zip(self.caches, self.sizes, strict=True):
            cache.reorder_cache(_of_all(beam_idx, n, len(beam_idx)))
        self._pick_weights(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the examples at `indices`, of every specialist."""
        batch = self.batch_size
        for cache, n in zip(self.caches, self.sizes, strict=True):
            cache.batch_select_indices(_of_all(indices, n, batch))
        self._pick_weights(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each example `repeats` times."""
        super().batch_repeat_interleave(repeats)
        if self.answer_weights is not None:
            self.answer_weights = self.answer_weights.repeat_interleave(repeats, dim=0)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.answer_weights = None

    def _pick_weights(self, indices: torch.Tensor) -> None:
        if self.answer_weights is not None:
            self.answer_weights = self.answer_weights[indices.to(self.answer_weights.device)]

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Not for use: each specialist updates its own cache in `caches`."""
        raise RuntimeError("SpecialistCache.update: each specialist updates its own cache, see SpecialistCache.caches")


def _of_all(indices: torch.Tensor, n: int, batch: int) -> torch.Tensor:
    """Indices of examples (K,) as rows of n specialists, (n * K,)."""
    return indices if n == 1 else torch.cat([indices + j * batch for j in range(n)])


def _rows(cache: Cache) -> int:
    """Rows of the cache's first layer that holds states; 0 where none does."""
    for layer in cache.layers:
        states = [getattr(layer, "keys", None), *getattr(layer, "conv_states", {}).values()]
        for tensor in states:
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1:
                return tensor.shape[0]
    return 0
