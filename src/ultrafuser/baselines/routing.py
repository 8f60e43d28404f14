"""Per-sample routing: a trained selector reads the prompt and hands the whole answer to one specialist.

It is a linear map of the specialists' hidden states at the last token of their own prompts, saved as the gate `answer`
of an ordinary fused model whose fusion keeps the largest weight alone. A conversation of several turns is routed answer
by answer, as a chat would be.

Legend: A answers, M response positions of a batch laid end to end, N specialists, D their widths added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ultrafuser.baselines.counting import LEARNS, model_operations, parameters, tokens_of_all
from ultrafuser.baselines.scores import part_of
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import save_fuser

if TYPE_CHECKING:
    import torch

    from ultrafuser.data import ResponseDataset

__all__ = ["RIDGES", "TARGETS", "Answers", "Selector", "fit", "read_answers", "routed_loss", "routing"]

MOST = 20_000  # conversations that the selector learns from, evenly spaced
ITERATIONS = 100
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
GATE = "answer"


class Answers(NamedTuple):
    """What a selector learns from: `states` (A, D) at the ends of prompts, `nats` (A, N) of the answer under each
    specialist, `tokens` (A,), `domains` (A,) as numbers.
    """

    states: torch.Tensor
    nats: torch.Tensor
    tokens: torch.Tensor
    domains: torch.Tensor


class Selector(NamedTuple):
    """Scores are `states` x `weight` (D, N) + `bias` (N,); the largest is chosen. `steps` of the optimiser made it."""

    weight: torch.Tensor
    bias: torch.Tensor
    steps: int

    def choice(self, answers: Answers) -> torch.Tensor:
        """The specialist of each answer, (A,)."""
        return (answers.states @ self.weight + self.bias).argmax(-1)


def routing(setting: Setting) -> Made:
    """Train a selector for each target and each strength of regularisation, keep the best on validation, save it."""
    fused = setting.fuse(
        {name: setting.open(name) for name in setting.names},
        setting.templates,
        gate=GATE,
        fusion={"rule": setting.recipe.fusion.rule, "top_k": 1},
    )
    validation = read_answers(fused, part_of(setting.material, "validation"))
    train = read_answers(fused, _thinned(setting.material.train))
    found = {(target, ridge): fit(train, target, ridge) for target in TARGETS for ridge in RIDGES}
    losses = {choice: routed_loss(validation, selector.choice(validation)) for choice, selector in found.items()}
    best = min(losses, key=lambda choice: losses[choice])
    _put(setting, fused, found[best])
    save_fuser(setting, fused, gate_only=True)
    gate, steps = parameters(fused.gate), sum(selector.steps for selector in found.values())
    right = (found[best].choice(validation) == validation.nats.argmin(-1)).double().mean().item()
    note = (
        "A linear selector reads the specialists' hidden states at the end of the prompt and gives the answer to one; "
        f"on the validation data that is the best one in {right:.0%} of the answers."
    )
    chosen = {
        "target": best[0],
        "ridge": best[1],
        "validation_losses": {f"{target}/{ridge:g}": loss for (target, ridge), loss in losses.items()},
        "validation_right": right,
    }
    operations = _operations(fused, _thinned(setting.material.train)) + LEARNS * gate * len(train.tokens) * steps
    return Made(setting.folder, gate, parameters(fused), operations, steps, note, chosen)


def read_answers(fused: Any, dataset: ResponseDataset, *, batch_size: int = 16) -> Answers:
    """Every answer of a data set, in its order, as a fused model of all specialists reads it."""
    import torch

    from ultrafuser.data import ResponseCollator

    collator = ResponseCollator(fused.config.pad_token_id)
    order = sorted(range(len(dataset)), key=lambda place: -dataset[place].length)
    found: dict[int, Answers] = {}
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = _read_batch(fused, collator([dataset[place] for place in places]))
        counts = [len(dataset[place].responses) for place in places]
        parts = [column.split(counts) for column in batch]
        found |= {place: Answers(*row) for place, row in zip(places, zip(*parts, strict=True), strict=True)}
    return Answers(*(torch.cat(column) for column in zip(*(found[i] for i in range(len(dataset))), strict=True)))


def _read_batch(fused: Any, batch: dict[str, Any]) -> Answers:
    import torch

    from ultrafuser.modeling.inputs import check_responses

    categories = batch.pop("category")
    inputs = {name: tensor.to(fused.device) for name, tensor in batch.items()}
    form = check_responses(
        inputs["sequence_ids"], inputs["sequence_mask"], inputs["response_index"], inputs["labels"], fused.n_specialists
    )
    one_hot_NN = torch.eye(fused.n_specialists, device=fused.device)
    with torch.no_grad():
        output = fused(**inputs, gate_weights=one_hot_NN[0], output_hidden_states=True)
        hidden = [states[form.keep] for states in output.hidden_states]
        labels_M = inputs["labels"][form.keep]
        columns = [fused.respond(hidden, labels_M, None, w.expand(len(labels_M), -1))[1] for w in one_hot_NN]
    answers_M = form.answers
    first_A = torch.nn.functional.pad(answers_M.diff(), (1, 0), value=1).nonzero()[:, 0]
    nats_AN = torch.zeros(len(first_A), fused.n_specialists, dtype=torch.float64, device=fused.device)
    nats_AN.index_add_(0, answers_M, torch.stack(columns, dim=-1).double())
    states_AD = torch.cat([states[first_A].float() for states in hidden], dim=-1)
    domains_A = categories[form.rows[first_A].cpu()]
    return Answers(states_AD.cpu(), nats_AN.cpu(), answers_M.bincount().cpu(), domains_A)


def fit(answers: Answers, target: str, ridge: float) -> Selector:
    """The selector of a row of TARGETS with `ridge` times the squared weights, by L-BFGS from zero in float64.

    Every domain counts the same. States are standardised for it, and the scaling is put into the weights.
    """
    import torch

    states_AD = answers.states.double()
    mean_D, scale_D = states_AD.mean(0), states_AD.std(0, correction=0).clamp_min(1e-6)
    states_AD = (states_AD - mean_D) / scale_D
    loss_of = TARGETS[target](answers)
    weight = torch.zeros(states_AD.shape[1], answers.nats.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(answers.nats.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    steps = 0

    def closure() -> torch.Tensor:
        nonlocal steps
        steps += 1
        optimiser.zero_grad()
        loss = loss_of((states_AD @ weight + bias).log_softmax(-1)) + ridge * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    scaled_DN = (weight / scale_D[:, None]).detach()
    return Selector(scaled_DN.float(), (bias - mean_D @ scaled_DN).detach().float(), steps)


LossOf = Callable[["torch.Tensor"], "torch.Tensor"]  # of the log of the selector's probabilities, (A, N)


def _lowest(answers: Answers) -> LossOf:
    """Cross entropy against the specialist with the lowest loss on the answer; every answer of a domain alike."""
    best_A = answers.nats.argmin(-1, keepdim=True)
    counts = answers.domains.bincount().double()
    weights_A = 1 / (counts[answers.domains] * (counts > 0).sum())
    return lambda log_AN: -(weights_A * log_AN.gather(-1, best_A)[:, 0]).sum()


def _expected(answers: Answers) -> LossOf:
    """Loss per token that drawing the specialist from the selector's probabilities would give."""
    return lambda log_AN: (_token_weights(answers)[:, None] * log_AN.exp() * answers.nats).sum()


TARGETS: dict[str, Callable[[Answers], LossOf]] = {"lowest": _lowest, "expected": _expected}


def routed_loss(answers: Answers, choice_A: torch.Tensor) -> float:
    """Mean over the domains of the loss per response token, each answer under the specialist chosen for it."""
    return float((_token_weights(answers) * answers.nats.gather(-1, choice_A[:, None])[:, 0]).sum())


def _token_weights(answers: Answers) -> torch.Tensor:
    """What a nat of each answer counts for in the mean of the domains, (A,)."""
    tokens = answers.domains.bincount(answers.tokens.double())
    return 1 / (tokens[answers.domains] * (tokens > 0).sum())


def _put(setting: Setting, fused: Any, selector: Selector) -> None:
    """Make the selector the gate of the model, and note what it learned from."""
    import torch

    train = setting.material.train
    counts, tokens = train.counts(), train.response_tokens()
    with torch.no_grad():
        fused.gate.outer.weight.copy_(selector.weight.T)
        fused.gate.outer.bias.copy_(selector.bias)
    data = {name: {"examples": counts[name], "response_tokens": tokens[name]} for name in counts}
    fused.config.gate_training = {"trained": True, "stages": [], "data": data, "seed": setting.seed}


def _operations(fused: Any, train: ResponseDataset) -> int:
    """The specialists read the training data once, frozen."""
    tokens = tokens_of_all(train)
    pairs = zip(fused.specialists, tokens.read, strict=True)
    return sum(model_operations(model, read, tokens.response, learns=False) for model, read in pairs)


def _thinned(train: ResponseDataset) -> ResponseDataset:
    """At most MOST of the examples, evenly spaced."""
    from ultrafuser.data import ResponseDataset

    if len(train) <= MOST:
        return train
    places: Sequence[int] = [i * len(train) // MOST for i in range(MOST)]
    examples = [train[place] for place in places]
    return ResponseDataset(examples, train.categories, n_specialists=train.n_specialists, max_length=train.max_length)
