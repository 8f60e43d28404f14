"""n prompts in the place of one: runs of a negative id that stand for them in lm-eval's token lists.

lm-eval sorts, groups, cuts and batches requests by one list of ids per context. A conversation that n specialists read
in n templates becomes the id -(k + 1), repeated as often as its longest prompt has tokens, k being its number here. So
lengths are right, cutting from the left cuts the prompts, and what reaches the model can be turned into n sequences.

Legend: B batch, L columns of lm-eval's batch, N specialists, T time, R response positions.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["StandIns"]

Prompts = Sequence[Sequence[int]]  # [specialist][ids]


class StandIns:
    """The prompts seen so far, by the context that they were made from."""

    def __init__(self, n_specialists: int) -> None:
        self.n_specialists = n_specialists
        self._prompts: list[Prompts] = []
        self._numbers: dict[str, int] = {}

    def __contains__(self, context: str) -> bool:
        return context in self._numbers

    def add(self, context: str, prompts: Prompts) -> None:
        """Remember what the specialists read for `context`."""
        self._numbers[context] = len(self._prompts)
        self._prompts.append([array("i", ids) for ids in prompts])

    def ids(self, context: str) -> list[int]:
        """The run of negative ids that stands for the prompts of `context`."""
        number = self._numbers[context]
        return [-(number + 1)] * max(map(len, self._prompts[number]))

    def prompts(self, row: Sequence[int]) -> list[list[int]]:
        """What each specialist reads of a row of stand-ins or ordinary ids, or stand-ins followed by ordinary ids."""
        own, width = self._own(row)
        return [[*prompt, *row[width:]] for prompt in own]

    def scoring_form(self, ids_BL: Tensor) -> dict[str, Tensor]:
        """`sequence_ids` (B, N, T) and `response_index` (B, N, R) of right-padded rows: stand-ins, then shared ids.

        Response position R-1-i is column L-1-i: columns that are prompt in every row are left out, except the last of
        them, which predicts the first shared id. A row without stand-ins is the same text for every specialist.
        """
        rows = ids_BL.tolist()
        columns = ids_BL.shape[1]
        parts = [self._own(row) for row in rows]
        first = max(min(width for _, width in parts) - 1, 0)
        columns_R = torch.arange(first, columns)
        longest = max(len(prompt) + columns - width for own, width in parts for prompt in own)
        sequence_ids = torch.zeros(len(rows), self.n_specialists, longest, dtype=torch.long)
        response_index = torch.zeros(len(rows), self.n_specialists, len(columns_R), dtype=torch.long)
        for b, (row, (own, width)) in enumerate(zip(rows, parts, strict=True)):
            for j, prompt in enumerate(own):
                sequence = [*prompt, *row[width:]]
                sequence_ids[b, j, : len(sequence)] = torch.tensor(sequence)
                response_index[b, j] = (columns_R + len(prompt) - width).clamp_min(0)
        form = {"sequence_ids": sequence_ids, "response_index": response_index}
        return {name: tensor.to(ids_BL.device) for name, tensor in form.items()}

    def _own(self, row: Sequence[int]) -> tuple[Prompts, int]:
        """What each specialist reads in place of the stand-ins that a row begins with, and how many these are."""
        width = next((i for i, token_id in enumerate(row) if token_id >= 0), len(row))
        if not width:
            return [[]] * self.n_specialists, 0
        return [ids[-width:] for ids in self._prompts[-row[0] - 1]], width
