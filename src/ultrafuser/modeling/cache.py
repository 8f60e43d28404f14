"""One cache object that holds n key/value caches and moves them as one.

All n caches have the same number of columns (prompts are left-padded to one length), so a position in one is the same
visible position in every other; what differs is which columns are padding, and that lives in the prompt masks.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache


class SpecialistCache(Cache):
    """n caches as one `Cache`: reorder, crop, repeat, select, reset act on all of them.

    `get_seq_length` counts visible columns. Cropping and reordering are inherited and work through `layers`.
    """

    def __init__(self, caches: Sequence[Cache]) -> None:
        # Not Cache.__init__: it wants to own the layers, here they belong to the n caches.
        self.caches = list(caches)
        self.layer_class_to_replicate = None
        self.offloading = any(cache.offloading for cache in self.caches)

    @classmethod
    def for_configs(cls, configs: Sequence[PreTrainedConfig], **kwargs: Any) -> "SpecialistCache":
        """A fresh dynamic cache for each configuration; `kwargs` go to `DynamicCache` (for example offloading=True)."""
        return cls([DynamicCache(config=config, **kwargs) for config in configs])

    @property
    def layers(self) -> list[Any]:  # type: ignore[override]
        """The layers of all caches, one after the other."""
        return [layer for cache in self.caches for layer in cache.layers]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen so far, padding included: the same number for every specialist."""
        return self.caches[0].get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As for the first specialist's cache."""
        return self.caches[0].get_mask_sizes(query_length, layer_idx)

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Not for use: each specialist updates its own cache in `caches`."""
        raise RuntimeError("SpecialistCache.update: each specialist updates its own cache, see SpecialistCache.caches")
