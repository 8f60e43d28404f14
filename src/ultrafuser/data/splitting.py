"""Setting a share of the training conversations aside for validation, without tearing related ones apart."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ultrafuser.data.conversations import Conversation

__all__ = ["split_validation"]


def split_validation(
    conversations: Sequence[Conversation], fraction: float, *, seed: int = 0
) -> tuple[list[Conversation], list[Conversation]]:
    """(training, validation): about `fraction` of the conversations of one category go to validation.

    Conversations of one family, or with the same first prompt, stay together, so that validation asks for more than
    memory. Depends on seed and content alone, not on the order. Raises ValueError when either side would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction: {fraction} is not between 0 and 1")
    groups: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        first = next(message["content"] for message in conversation.messages if message["role"] == "user")
        groups.setdefault(conversation.family or f"prompt:{first}", []).append(conversation)
    wanted = max(1, round(fraction * len(conversations)))
    chosen: set[str] = set()
    taken = 0
    for key in sorted(groups, key=lambda key: sha256(f"{seed}:{key}".encode()).digest()):
        if taken < wanted and taken + len(groups[key]) <= max(2 * wanted, 1) and len(chosen) + 1 < len(groups):
            chosen.add(key)
            taken += len(groups[key])
    if not chosen:
        category = conversations[0].category if conversations else "?"
        raise ValueError(
            f"data.{category}.validation_fraction: {fraction} of {len(conversations)} conversations in {len(groups)} "
            "families cannot be set aside; give more data, a larger share, or files under validation"
        )
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for key, members in groups.items():
        sides[key in chosen].extend(members)
    return sides
