"""Response loss of a fused model on a data set, per example, with the gate's weights or with forced ones.

B batch, R response positions, N specialists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device

from ultrafuser.data import Example, ResponseCollator, ResponseDataset
from ultrafuser.data.collator import IGNORE
from ultrafuser.modeling.inputs import forced_weights, spread
from ultrafuser.training.alone import loss_alone, only_specialist
from ultrafuser.training.stored import StoredCollator, StoredStates
from ultrafuser.training.stored_fusion import fused_from_states

__all__ = ["ExampleLoss", "ResponseLoss", "evaluate_many", "evaluate_response_loss", "evaluate_stored"]

Weighting = Sequence[float] | torch.Tensor | None
Progress = Callable[[int, int], None]


class ExampleLoss(NamedTuple):
    """One example's loss in nats, summed over its response tokens, and the mean weight of each specialist over them."""

    id: str
    category: str
    loss_sum: float
    n_tokens: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class ResponseLoss:
    """Losses of all examples, in the data set's order, and their summaries by category."""

    per_example: list[ExampleLoss]
    categories: list[str]
    specialists: list[str]

    def by_category(self) -> dict[str, float]:
        """Mean loss per response token in nats, over all tokens of a category."""
        return {
            name: sum(e.loss_sum for e in found) / max(sum(e.n_tokens for e in found), 1)
            for name, found in self._grouped().items()
        }

    def mean(self) -> float:
        """Mean of the categories' losses: every category counts the same."""
        found = self.by_category()
        return sum(found.values()) / len(found)

    def mean_weights(self) -> dict[str, dict[str, float]]:
        """Mean weight of each specialist over the response tokens of a category."""
        means = {}
        for name, found in self._grouped().items():
            tokens = np.array([e.n_tokens for e in found], dtype=np.float64)
            weights = np.array([e.weights for e in found], dtype=np.float64)
            mean = (tokens @ weights) / max(tokens.sum(), 1)
            means[name] = dict(zip(self.specialists, mean.tolist(), strict=True))
        return means

    def _grouped(self) -> dict[str, list[ExampleLoss]]:
        groups: dict[str, list[ExampleLoss]] = {name: [] for name in self.categories}
        for example in self.per_example:
            groups[example.category].append(example)
        return {name: found for name, found in groups.items() if found}


def evaluate_response_loss(
    model: Any,
    dataset: ResponseDataset,
    *,
    gate_weights: Weighting = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> ResponseLoss:
    """Loss of the fused model on every example; `gate_weights` (N,) forces the weights, None asks the gate."""
    return evaluate_many(model, dataset, {"": gate_weights}, batch_size=batch_size, progress=progress)[""]


def evaluate_many(
    model: Any,
    dataset: ResponseDataset,
    weightings: Mapping[str, Weighting],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> dict[str, ResponseLoss]:
    """`evaluate_response_loss` for several weightings at once, for example {"fused": None, "text": (1, 0, 0)}.

    The specialists read each batch once; only gate and head run for each weighting. Batches hold examples of like
    length. Where tokenizers differ, a weighting that leaves one specialist alone is measured over its own tokens of the
    answers, and counted per canonical token: every loss is that of the same bytes. Raises ValueError for a weighting
    that does not fit the number of specialists.
    """
    _check(model, dataset, weightings, batch_size)
    found: dict[str, list[ExampleLoss | None]] = {name: [None] * len(dataset) for name in weightings}
    collator = ResponseCollator(getattr(model.config, "pad_token_id", None))
    alone = {name: j for name, w in weightings.items() if (j := only_specialist(model, w)) is not None}
    together = {name: weighting for name, weighting in weightings.items() if name not in alone}
    order = np.argsort(-dataset.lengths, kind="stable").tolist()
    training = {module: module.training for module in [model, model.gate, *model.specialists]}
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            examples = [dataset[index] for index in indices]
            results = {name: loss_alone(model, examples, j) for name, j in alone.items()}
            if together:
                results |= _evaluate_batch(model, collator(examples), together)
            for name, rows in results.items():
                for index, example, row in zip(indices, examples, rows, strict=True):
                    found[name][index] = _example_loss(dataset, example, row)
            if progress is not None:
                progress(start + len(indices), len(order))
    finally:
        for module, was_training in training.items():
            module.train(was_training)
    names = list(model.config.specialist_names)
    return {
        name: ResponseLoss([e for e in examples if e is not None], dataset.categories, names)
        for name, examples in found.items()
    }


def _example_loss(dataset: ResponseDataset, example: Example, row: Sequence[float]) -> ExampleLoss:
    category = dataset.categories[example.category]
    return ExampleLoss(example.id, category, row[0], int(row[1]), tuple(row[2:]))


@torch.no_grad()
def evaluate_stored(model: Any, stored: StoredStates, *, batch_size: int = 16) -> ResponseLoss:
    """`evaluate_response_loss` of the gate from the stored states of a data set, without running the specialists."""
    dataset, collator = stored.dataset, StoredCollator(stored)
    found: list[ExampleLoss] = []
    was_training = model.gate.training
    model.gate.eval()
    try:
        for start in range(0, len(dataset), batch_size):
            pairs = [stored[index] for index in range(start, min(start + batch_size, len(dataset)))]
            batch = collator(pairs)
            labels_BR = batch["labels"].to(model.device)
            hidden, known = send_to_device((batch["hidden"], batch["known"]), model.device)
            output = fused_from_states(model, hidden, labels_BR, known)
            rows = _rows(output.token_loss, output.gate_weights, labels_BR != IGNORE)
            for (_, example), row in zip(pairs, rows, strict=True):
                found.append(_example_loss(dataset, example, row))
    finally:
        model.gate.train(was_training)
    return ResponseLoss(found, dataset.categories, list(model.config.specialist_names))


@torch.no_grad()
def _evaluate_batch(
    model: Any, batch: Mapping[str, torch.Tensor], weightings: Mapping[str, Weighting]
) -> dict[str, list[list[float]]]:
    """Per weighting and example: loss sum, number of tokens, mean weight of each specialist."""
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "category"}
    names = sorted(weightings, key=lambda name: weightings[name] is not None)  # some gates need the whole form
    output = model(**inputs, gate_weights=weightings[names[0]], output_hidden_states=len(names) > 1)
    keep_BR = inputs["labels"] != IGNORE
    results = {names[0]: _rows(output.token_loss, output.gate_weights, keep_BR)}
    available_MN = (inputs["response_index"] >= 0).transpose(1, 2)[keep_BR]
    for name in names[1:]:
        kept = [hidden[keep_BR] for hidden in output.hidden_states]
        forced = weightings[name]
        if forced is not None:
            forced = forced_weights(forced, keep_BR.shape, model.n_specialists, kept[0].device)[keep_BR]
        weights_MN, loss_M = model.respond(kept, inputs["labels"][keep_BR], available_MN, forced)
        results[name] = _rows(spread(loss_M, keep_BR), spread(weights_MN, keep_BR), keep_BR)
    return {name: results[name] for name in weightings}


def _rows(token_loss_BR: torch.Tensor, weights_BRN: torch.Tensor, keep_BR: torch.Tensor) -> list[list[float]]:
    keep = keep_BR.to(token_loss_BR.device)
    tokens_B = keep.sum(1).double()
    mean_BN = (weights_BRN.double() * keep[..., None]).sum(1) / tokens_B.clamp_min(1)[:, None]
    loss_B = token_loss_BR.double().sum(1)
    return torch.cat([loss_B[:, None], tokens_B[:, None], mean_BN], dim=1).tolist()


def _check(model: Any, dataset: ResponseDataset, weightings: Mapping[str, Weighting], batch_size: int) -> None:
    if not weightings:
        raise ValueError("weightings: none given; name at least one, for example {'fused': None}")
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is below 1")
    if len(dataset) == 0:
        raise ValueError("dataset: holds no example to evaluate")
    if dataset.n_specialists != model.n_specialists:
        raise ValueError(
            f"dataset: encoded for {dataset.n_specialists} specialists, the model has {model.n_specialists}; "
            "encode it with the model's templates"
        )
    for name, weighting in weightings.items():
        if weighting is not None and len(weighting) != model.n_specialists:
            raise ValueError(f"gate_weights {name!r}: {len(weighting)} weights for {model.n_specialists} specialists")
