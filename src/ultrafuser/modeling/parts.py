"""Getting at the parts of a fused model: its specialists, their heads, padded prompts."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ultrafuser.lookup import did_you_mean
from ultrafuser.modeling.adapter_folders import write_adapter
from ultrafuser.modeling.adapters import SharedSpecialist, is_shared
from ultrafuser.modeling.cache import SpecialistCache
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.head import Head, build_head
from ultrafuser.modeling.inputs import pad_prompts
from ultrafuser.modeling.vocabulary import align, find_tokenizers
from ultrafuser.tokens import Alignment


class FusedParts:
    """Mixed into the fused model: everything that is looked up rather than computed."""

    config: UltraFuserConfig
    device: torch.device
    _tokenizers: list[Any] | None = None
    _alignment: Alignment | None = None
    tokenizer_place: str | None = None  # checkpoint that holds the tokenizers, where it is not the configuration's

    @property
    def n_specialists(self) -> int:
        """How many specialists there are."""
        return self.config.n_specialists

    @property
    def gate_is_trained(self) -> bool:
        """False while the gate still holds the random weights drawn from its seed."""
        return bool(self.config.gate_training.get("trained"))

    def specialist(self, which: int | str) -> Any:
        """The specialist at an index or of a name: its model, or a `SharedSpecialist` where several run as one.

        Raises ValueError where there is none.
        """
        names = self.config.specialist_names
        if isinstance(which, str) and which not in names:
            raise ValueError(f"specialist: {which!r} is not one of {', '.join(names)}{did_you_mean(which, names)}")
        index = names.index(which) if isinstance(which, str) else which
        if not -len(names) <= index < len(names):
            raise ValueError(f"specialist: index {index} is out of range; there are {len(names)}")
        return self.specialists[index]

    @property
    def learners(self) -> list[int]:
        """Indices of the specialists that learn where specialists are trained: all, unless a subclass says less."""
        return list(range(self.n_specialists))

    @property
    def bodies(self) -> list[Any]:
        """The modules that hold the specialists: one for each that stands alone, one for all that share a base."""
        return [getattr(self, group.name) for group in self.config.groups]

    @property
    def specialists(self) -> list[Any]:
        """All specialists in order, see `specialist`."""
        found: list[Any] = [None] * self.n_specialists
        for group in self.config.groups:
            module = getattr(self, group.name)
            for place, j in enumerate(group.members):
                found[j] = SharedSpecialist(module, place) if is_shared(module) else module
        return found

    def save_adapter(self, name: str, folder: str | os.PathLike) -> None:
        """Write the adapter of specialist `name`, as it is now, to a folder in PEFT's format.

        Raises ValueError for an unknown name, a specialist that is no adapter, or a folder that holds one already.
        """
        specialist = self.specialist(name)
        entry = self.config.sources[self.config.specialist_names.index(name)]
        write_adapter(specialist, folder, entry, name)

    @property
    def heads(self) -> list[Head]:
        """Each specialist's output head."""
        vocabulary = self.config.vocab_size
        assert vocabulary is not None
        sizes = [entry["tokens"] for entry in self.config.vocabularies] or [vocabulary] * self.n_specialists
        return [build_head(specialist, size) for specialist, size in zip(self.specialists, sizes, strict=True)]

    @property
    def tokenizers(self) -> list[Any] | None:
        """The specialists' tokenizers in order where they differ, None where all share one.

        Raises ValueError where they are neither in memory nor beside the checkpoint or a specialist.
        """
        if not self.config.vocabularies:
            return None
        if self._tokenizers is None:
            self._tokenizers = find_tokenizers(self)
        return self._tokenizers

    @property
    def alignment(self) -> Alignment | None:
        """How the ids of tokenizers that differ answer each other, made when first asked for; None where all share one.

        Raises ValueError as `tokenizers` does.
        """
        tokenizers = self.tokenizers
        if tokenizers is not None and self._alignment is None:
            self._alignment = align(self.config.specialist_names, tokenizers, self.config.vocabularies)
        return self._alignment

    def use_alignment(self, aligned: Alignment) -> None:
        """Take tokenizers and alignment as they are in memory."""
        self._tokenizers, self._alignment = [table.tokenizer for table in aligned.tables], aligned

    def new_cache(self, **options: Any) -> SpecialistCache:
        """An empty cache for all specialists; `options` go to `DynamicCache`."""
        groups = self.config.groups
        configs = [self.specialist(group.members[0]).config for group in groups]
        return SpecialistCache.for_configs(configs, [len(group.members) for group in groups], **options)

    def get_input_embeddings(self) -> nn.Module:
        """The first specialist's input embeddings: the fused model has none of its own."""
        return self.specialist(0).get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """None: the fused head is made of the specialists' heads."""

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Not supported: resize each specialist before fusing."""
        raise ValueError("resize_token_embeddings: resize each specialist to the same vocabulary, then fuse them")

    def prepare_prompts(self, examples: Sequence[Sequence[Sequence[int]]]) -> dict[str, torch.Tensor]:
        """Left-pad prompts given as [example][specialist][ids]: keyword arguments for `forward` and `generate`."""
        pad = self.config.pad_token_id
        padded = pad_prompts(examples, self.n_specialists, 0 if pad is None else pad)
        return {name: tensor.to(self.device) for name, tensor in padded.items()}
