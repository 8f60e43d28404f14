"""Counts parameters and training operations by one rule, so that methods can be compared at equal cost.

The rule: a product with a matrix takes 2 operations per weight and token forward, and 4 more backward where the weight
learns (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), so 6 for what learns and 2 for what is frozen. A model's
body sees every token of prompt and response, its head and the gate the response tokens alone, as in this package. Table
look-ups, attention scores, norms, padding, validation and what recomputing activations costs are left out.

Legend: N specialists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ultrafuser.data import ResponseDataset, make_sampler
from ultrafuser.recipe import StageConfig
from ultrafuser.training.parameters import ADAPTER_MARK, TRAINABLE

__all__ = [
    "Parts",
    "Tokens",
    "low_rank_saving",
    "model_operations",
    "model_parts",
    "parameters",
    "read_lengths",
    "stage_operations",
    "tokens_of_all",
    "tokens_read",
    "used_parameters",
]

LEARNS, FROZEN, PASSED = 6, 2, 4  # passed: frozen, but gradients go through to what lies below
EXPERTS = ".experts."  # in the names of experts' parameters


class Parts(NamedTuple):
    """Weights of a model's matrix products: in its body, for every token, and in its head, for response tokens."""

    body: int
    head: int


class Tokens(NamedTuple):
    """Tokens read in a training: all of them, by specialist, and those of the responses."""

    read: list[int]
    response: int


def parameters(*modules: Any) -> int:
    """Number of parameters, shared ones once."""
    found = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(found.values())


def used_parameters(model: Any) -> int:
    """Parameters of a plain causal LM that a token reads: of n experts of which it takes k, k of n."""
    return parameters(model) - _idle(model)


def _idle(model: Any) -> int:
    """Parameters of the experts that a token does not use; 0 of a dense model.

    Sparse models of the Transformers library and ours keep stacked experts under this name and these settings.
    """
    config = model.config
    k, n = (getattr(config, name, None) for name in ("num_experts_per_tok", "num_local_experts"))
    if not k or not n:
        return 0
    return sum(p.numel() for name, p in model.named_parameters() if EXPERTS in name) // n * (n - k)


def model_parts(model: Any) -> Parts:
    """Body and head of a plain causal LM; a table that is not also the head is looked up, so it is in neither.

    Of a sparse model's body only what a token uses is counted.
    """
    head = model.get_output_embeddings()
    table = model.get_input_embeddings()
    in_head = {id(p) for p in head.parameters()}
    looked_up = {id(p) for p in table.parameters()}
    body = sum(p.numel() for p in model.parameters() if id(p) not in in_head | looked_up)
    return Parts(body - _idle(model), parameters(head))


def model_operations(model: Any, read: int, response: int, *, learns: bool) -> int:
    """Operations of training (or only running) a plain model on `read` tokens, `response` of them in responses."""
    parts = model_parts(model)
    return (LEARNS if learns else FROZEN) * (parts.body * read + parts.head * response)


def stage_operations(
    model: Any, stages: Sequence[StageConfig], train: ResponseDataset, *, seed: int, gate_learns: bool = True
) -> int:
    """Operations of `run_stages` on a fused model: what is drawn is counted, not estimated.

    A gate that forced weights replace, or that has one specialist, takes none: `gate_learns` False. Stored states are
    computed once for the whole training set.
    """
    total = 0
    for place, stage in enumerate(stages):
        drawn = tokens_read(train, stage, seed=1000 * seed + place)
        gate, learns = TRAINABLE[stage.train]
        once = tokens_of_all(train) if stage.stored_states else drawn
        for j, specialist in enumerate(model.specialists):
            parts, cost = model_parts(specialist), LEARNS if learns and j in model.learners else FROZEN
            total += cost * (parts.body * once.read[j] + parts.head * drawn.response)
        if model.n_specialists > 1 and gate_learns:
            times = model.n_specialists if model.gate.serves_any_number else 1
            cost = LEARNS if gate else FROZEN
            total += cost * times * parameters(model.gate) * drawn.response
            if model.gate.reads_evidence:  # the heads run once more
                total += FROZEN * sum(model_parts(s).head for s in model.specialists) * drawn.response
    return total


def low_rank_saving(model: Any, stages: Sequence[StageConfig], train: ResponseDataset, *, seed: int) -> int:
    """What `stage_operations` counts too much where specialists learn through low-rank adapters alone.

    Every other weight still takes 2 operations forward and 2 backward to hand the gradient on, but has none itself.
    """
    total = 0
    for place, stage in enumerate(stages):
        if not TRAINABLE[stage.train][1]:
            continue
        drawn = tokens_read(train, stage, seed=1000 * seed + place)
        for j in model.learners:
            specialist, read = model.specialist(j), drawn.read[j]
            parts = model_parts(specialist)
            low = sum(p.numel() for name, p in specialist.named_parameters() if ADAPTER_MARK in name)
            total += (LEARNS - PASSED) * ((parts.body - low) * read + parts.head * drawn.response)
    return total


def tokens_read(train: ResponseDataset, stage: StageConfig, *, seed: int) -> Tokens:
    """Tokens in all batches of a stage, drawn as `run_stages` draws them from `seed`."""
    sampler = make_sampler(
        stage.sampler,
        train.category_index,
        stage.examples_per_category,
        steps=stage.steps,
        seed=seed,
        names=train.categories,
    )
    indices = list(sampler)
    response = [example.n_response_tokens for example in train.examples]
    return Tokens(read_lengths(train, indices), sum(response[i] for i in indices))


def tokens_of_all(train: ResponseDataset) -> Tokens:
    """Tokens of a data set read once."""
    responses = sum(example.n_response_tokens for example in train.examples)
    return Tokens(read_lengths(train, range(len(train))), responses)


def read_lengths(train: ResponseDataset, indices: Iterable[int]) -> list[int]:
    """Tokens, prompts and responses, that each of the N specialists reads of these examples."""
    lengths_by_specialist = [
        [sum(map(len, example.prompts[j])) + example.n_response_tokens for example in train.examples]
        for j in range(train.n_specialists)
    ]
    indices = list(indices)
    return [sum(lengths[i] for i in indices) for lengths in lengths_by_specialist]
