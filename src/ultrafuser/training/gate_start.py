"""A start for the paper's gate without training: Newton steps on a few conversations that the specialists read once.

The scores of `TokenGate` are linear in the outputs of its inner layer, which stay random features here (Rahimi and
Recht, 2008). The outer layer maximises the probability mixture sum_j w_j p_j(label), of which each specialist's own
loss is all that is needed. From equal weights the first step is ridge regression, in closed form, on the softmax of
minus the losses; each further step is the same with the weights that the last one gave.

Legend: M response positions of a batch laid end to end, N specialists, D hidden, H inner width of the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from ultrafuser.data import ResponseCollator, ResponseDataset
from ultrafuser.data.collator import IGNORE
from ultrafuser.modeling.evidence import read_evidence
from ultrafuser.modeling.gate import TokenGate
from ultrafuser.modeling.loss import CHUNK_BYTES, mixed_label_loss, own_losses

__all__ = ["GateStart", "start_gate"]

RIDGE = 0.1  # of the mean of the diagonal of the first step's matrix


@dataclass(frozen=True)
class GateStart:
    """What the start took and gave: conversations by index, response tokens in them, and the loss of the probability
    mixture there before each step and after the last, in nats per token.
    """

    examples: list[int]
    tokens: int
    losses: list[float]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


class _Rows(NamedTuple):
    """Hidden states N x (M, D_j), evidence (M, N, F) or None, and each specialist's loss (M, N), of one batch."""

    hidden: list[torch.Tensor]
    evidence: torch.Tensor | None
    losses: torch.Tensor


@torch.no_grad()
def start_gate(
    model: Any,
    dataset: ResponseDataset,
    *,
    examples_per_category: int,
    steps: int,
    seed: int,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GateStart:
    """Set the outer layer of the model's gate; specialists and inner layer stay as they are.

    So many conversations of each category, drawn from `seed`, are read once; their hidden states are held in memory.
    Raises ValueError for a gate that is not linear in features shared by all, and where tokenizers differ.
    """
    gate = model.gate
    if not isinstance(gate, TokenGate) or model.config.vocabularies or model.n_specialists == 1:
        raise ValueError(
            f"gate.type: {model.config.gate['type']!r} cannot be started without training; that takes a token or "
            "evidence gate over several specialists of one tokenizer"
        )
    examples = _draw(dataset, examples_per_category, seed)
    batches: list[_Rows] = []
    was_training = model.training
    model.eval()
    for start in range(0, len(examples), batch_size):
        batches.append(_read(model, [dataset[index] for index in examples[start : start + batch_size]]))
        progress(min(start + batch_size, len(examples)), len(examples))
    model.train(was_training)
    tokens = sum(len(rows.losses) for rows in batches)
    outer_H = torch.zeros(gate.inner.out_features, dtype=torch.float64, device=gate.inner.weight.device)
    ridge, found = 0.0, []
    for _ in range(steps):
        square_HH, pull_H, loss = _equations(gate, batches, outer_H)
        ridge = ridge or RIDGE * float(square_HH.diagonal().mean())
        square_HH.diagonal().add_(ridge)
        outer_H -= torch.linalg.solve(square_HH, pull_H + ridge * outer_H)
        found.append(loss / tokens)
    found.append(_equations(gate, batches, outer_H)[2] / tokens)
    gate.outer.weight.copy_(gate.temperature * outer_H[None])
    return GateStart(examples, tokens, found)


def _draw(dataset: ResponseDataset, per_category: int, seed: int) -> list[int]:
    """So many different conversations of each category, or all that there are."""
    generator = torch.Generator().manual_seed(seed)
    found: list[int] = []
    for category in range(len(dataset.categories)):
        own = [i for i, example in enumerate(dataset.examples) if example.category == category]
        found += [own[i] for i in torch.randperm(len(own), generator=generator)[:per_category].tolist()]
    return found


def _read(model: Any, examples: Sequence[Any]) -> _Rows:
    batch = ResponseCollator(model.config.pad_token_id)(examples)
    labels_BR = batch.pop("labels")
    keep_BR = labels_BR != IGNORE
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "category"}
    forced = [1 / model.n_specialists] * model.n_specialists  # the gate need not run
    states = model(**inputs, gate_weights=forced, output_hidden_states=True).hidden_states
    hidden, heads = [one[keep_BR.to(one.device)] for one in states], model.heads
    evidence = read_evidence(hidden, heads) if model.gate.reads_evidence else None
    losses_MN = own_losses(hidden, heads, labels_BR[keep_BR], CHUNK_BYTES // (4 * heads[0].vocab_size))
    return _Rows(hidden, evidence, losses_MN.double())


def _equations(
    gate: TokenGate, batches: Sequence[_Rows], outer_H: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The matrix of a Gauss-Newton step (H, H), the gradient (H,) and the loss, summed over all tokens, float64."""
    square_HH, pull_H, loss = outer_H.new_zeros(len(outer_H), len(outer_H)), torch.zeros_like(outer_H), 0.0
    for rows in batches:
        features_MNH = gate.features(rows.hidden, rows.evidence).double()
        weights_MN = (features_MNH @ outer_H).softmax(-1)
        own_MN = -rows.losses.to(weights_MN)
        loss += float(mixed_label_loss(weights_MN, own_MN).sum())
        shares_MN = (weights_MN.log() + own_MN).softmax(-1)
        mean_MH = torch.einsum("mnh,mn->mh", features_MNH, weights_MN)
        spread_MNH = (features_MNH - mean_MH[:, None]) * weights_MN.sqrt()[..., None]
        square_HH += torch.einsum("mnh,mnk->hk", spread_MNH, spread_MNH)
        pull_H += torch.einsum("mnh,mn->h", features_MNH, weights_MN - shares_MN)
    return square_HH, pull_H, loss
