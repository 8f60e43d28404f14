"""A model that learns from the data and from frozen teachers at once: the loss of FuseChat's pairwise fusion.

Legend: B batch, R response positions, M those of a batch laid end to end, N specialists, K = N - 1 teachers, D hidden,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.head import Head
from ultrafuser.modeling.inputs import Responses, check_labels, mean_loss
from ultrafuser.modeling.loss import CHUNK_BYTES, by_chunks, response_loss
from ultrafuser.modeling.output import UltraFuserOutput
from ultrafuser.modeling.reading import read_all, read_one

__all__ = ["DATA_SHARE", "TaughtModel", "best_teacher", "taught_loss"]

DATA_SHARE = 0.9  # lambda of Wan et al. 2024 (`lm_loss_weight` in their repository)


class TaughtModel(UltraFuserForCausalLM):
    """A fused model whose first specialist learns from the labels and from the others, which are its frozen teachers.

    Each reads the conversation in its own template. In training mode the loss is `taught_loss`; in evaluation mode
    only the learner runs, and the loss is its own cross entropy. Weights that replace the gate's mean nothing here.
    Made by `from_specialists` ({"target": ..., "pivot": ..., "source": ...}); saved is its learner, as a plain model.
    """

    @property
    def learners(self) -> list[int]:
        """The first specialist."""
        return [0]

    def _respond(
        self,
        form: Responses,
        labels: torch.Tensor | None,
        given: Any,
        with_logits: bool,
        items: Any,
        wants_hidden: bool,
    ) -> UltraFuserOutput:
        if labels is None or with_logits or wants_hidden:
            return super()._respond(form, labels, given, with_logits, items, wants_hidden)
        heads, labels_M = self.heads, labels[form.keep]
        check_labels(labels_M, heads[0].vocab_size)
        if self.training:
            states = read_all(self, [form.columns(j) for j in range(self.n_specialists)])
            hidden = [form.gather(states_BTD, j) for j, states_BTD in enumerate(states)]
            loss_M = taught_loss(hidden, heads, labels_M, form.rows, DATA_SHARE)
        else:
            hidden_MD = form.gather(read_one(self, 0, form.columns(0)), 0)
            alone = hidden_MD.new_ones(len(labels_M), 1)
            loss_M = response_loss(alone, [hidden_MD], heads[:1], "logits", labels_M)
        weights_MN = functional.one_hot(torch.zeros_like(form.rows), self.n_specialists).float()
        return UltraFuserOutput(
            loss=mean_loss(loss_M, items), token_loss=form.spread(loss_M), gate_weights=form.spread(weights_MN)
        )


def taught_loss(
    hidden_MD: Sequence[torch.Tensor],
    heads: Sequence[Head],
    labels_M: torch.Tensor,
    rows_M: torch.Tensor,
    share: float,
    chunk_bytes: int = CHUNK_BYTES,
) -> torch.Tensor:
    """share * CE(label) + (1 - share) * KL(teacher || learner) at each position, (M,) nats.

    The first of `hidden_MD` and `heads` are the learner's, the others the teachers'; `rows_M` says which conversation a
    position belongs to. The teacher of a whole conversation is `best_teacher`: MinCE, the default fusion function of
    FuseChat (Wan et al. 2024, arXiv 2408.07990, section 3.2), per conversation as in its repository (`metric_ce`).
    """
    rows = chunk_bytes // (4 * heads[0].vocab_size * len(heads))
    found = by_chunks(_lessons, rows, labels_M, tuple(hidden_MD), heads)
    own_M, teachers_MK, apart_MK = found.tensor_split([1, len(heads)], dim=-1)
    chosen_M = best_teacher(teachers_MK.detach(), rows_M.to(teachers_MK.device))
    apart_M = apart_MK.gather(-1, chosen_M.unsqueeze(-1)).squeeze(-1)
    return share * own_M.squeeze(-1) + (1 - share) * apart_M


def best_teacher(loss_MK: torch.Tensor, rows_M: torch.Tensor) -> torch.Tensor:
    """The teacher with the lowest mean loss over the conversation that each position belongs to, (M,); `rows_M` (M,)
    numbers the conversations."""
    conversations = int(rows_M.max()) + 1 if rows_M.numel() else 0
    total = loss_MK.new_zeros(conversations, loss_MK.shape[-1]).index_add_(0, rows_M, loss_MK)
    return total.argmin(dim=-1)[rows_M]


def _lessons(labels_M: torch.Tensor, hidden_MD: Sequence[torch.Tensor], heads: Sequence[Head]) -> torch.Tensor:
    """Cross entropy of learner and teachers, and divergence of the learner from each teacher: (M, 1 + 2 K) nats."""
    own_MV = functional.log_softmax(heads[0].logits(hidden_MD[0]), dim=-1)
    label_M = labels_M.to(own_MV.device)
    losses, apart = [functional.nll_loss(own_MV, label_M, reduction="none")], []
    for states, head in zip(hidden_MD[1:], heads[1:], strict=True):
        with torch.no_grad():
            taught_MV = functional.log_softmax(head.logits(states).to(own_MV.device), dim=-1)
            losses.append(functional.nll_loss(taught_MV, label_M, reduction="none"))
        apart.append(functional.kl_div(own_MV, taught_MV, reduction="none", log_target=True).sum(dim=-1))
    return torch.stack([*losses, *apart], dim=-1)
