"""Conversations from files, encoded for n specialists, drawn in balanced batches. Only the collator imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ultrafuser.data.conversations import FORMATS, Conversation, Message, conversation_from_record
from ultrafuser.data.dataset import Example, ResponseDataset
from ultrafuser.data.decontamination import Decontaminated, OverlapIndex, decontaminate
from ultrafuser.data.sampler import (
    SAMPLERS,
    ClassBalancedBatchSampler,
    FlatBatchSampler,
    RandomBatchSampler,
    make_sampler,
)
from ultrafuser.data.sources import data_files, load_conversations
from ultrafuser.data.splitting import split_validation

if TYPE_CHECKING:
    from ultrafuser.data.collator import ResponseCollator

__all__ = [
    "FORMATS",
    "SAMPLERS",
    "ClassBalancedBatchSampler",
    "Conversation",
    "Decontaminated",
    "Example",
    "FlatBatchSampler",
    "Message",
    "OverlapIndex",
    "RandomBatchSampler",
    "ResponseCollator",
    "ResponseDataset",
    "conversation_from_record",
    "data_files",
    "decontaminate",
    "load_conversations",
    "make_sampler",
    "split_validation",
]


def __getattr__(name: str) -> Any:
    if name == "ResponseCollator":
        from ultrafuser.data.collator import ResponseCollator

        return ResponseCollator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
