"""Sharing conversations out among training, validation and held-out data, by hashes: no order and no chance in it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ultrafuser.lookup import lookup

__all__ = ["APART", "SPLITS", "Shares", "Splitter"]

SPLITS = ("train", "validation", "heldout")
APART = ("conversations", "sub_topics", "meta_topics")


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of every domain goes to validation and to held-out data, and what must not occur on two sides.

    Raises ValueError where the shares leave nothing to train on.
    """

    validation: float = 0.0
    heldout: float = 0.0
    apart: str = "conversations"
    seed: int = 0

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(APART), self.apart, "apart")
        for name in ("validation", "heldout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is no share; give a number from 0 to below 1")
        if self.validation + self.heldout >= 1:
            raise ValueError(
                f"validation and heldout: {self.validation} and {self.heldout} leave nothing to train on; lower one"
            )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(name for name in SPLITS if name == "train" or getattr(self, name) > 0)


class Splitter:
    """Says to which split a group of conversations of one domain belongs.

    `keys` are the groups' names, one for every conversation, in any order; 8 bytes of each are kept while they are
    sorted. Groups are never torn apart, so a share is met as nearly as whole groups allow and holds at least one.
    Raises ValueError where there are too few groups for the shares.
    """

    def __init__(self, shares: Shares, domain: str, keys: Iterable[str] = ()) -> None:
        self.shares = shares
        self._limits: list[tuple[str, int]] = []
        if shares.wanted == ("train",):
            return
        hashes = array("Q", sorted(self._hash(key) for key in keys))
        start = 0
        for name in ("heldout", "validation"):
            if hashes and name in shares.wanted:
                start = _boundary(hashes, start, round(getattr(shares, name) * len(hashes)))
                if start >= len(hashes):
                    raise ValueError(
                        f"{name}: {getattr(shares, name)} of the {len(hashes)} conversations of {domain} cannot be set "
                        f"aside without tearing {shares.apart} apart; make more, or lower the share"
                    )
                self._limits.append((name, hashes[start]))

    def split(self, keys: Sequence[str]) -> str | None:
        """The split that all of a conversation's groups belong to; None where they belong to several."""
        found = {self._place(self._hash(key)) for key in keys} if self._limits else {"train"}
        return found.pop() if len(found) == 1 else None

    def _place(self, value: int) -> str:
        return next((name for name, limit in self._limits if value < limit), "train")

    def _hash(self, key: str) -> int:
        line = f"{self.shares.seed}\0{key}"
        return int.from_bytes(hashlib.blake2b(line.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _boundary(hashes: Sequence[int], start: int, count: int) -> int:
    """Where the group ends that holds the last of `count` hashes after `start`, at least one."""
    place = min(start + max(1, count), len(hashes))
    while 0 < place < len(hashes) and hashes[place] == hashes[place - 1]:
        place += 1
    return place
