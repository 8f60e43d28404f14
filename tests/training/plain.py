"""What training must equal: plain Transformers models, plain loops over examples and tokens, a plain optimiser loop."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def token_losses(specialists: list[Any], gate: nn.Module, example: Any) -> torch.Tensor:
    """Loss of every response token of one example: one specialist at a time, one position at a time."""
    logits, scores = [], []
    for specialist, prompts in zip(specialists, example.prompts, strict=True):
        ids: list[int] = []
        places: list[int] = []
        for prompt, response in zip(prompts, example.responses, strict=True):
            ids += prompt.tolist()
            for token in response.tolist():
                places.append(len(ids) - 1)
                ids.append(token)
        output = specialist(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        hidden = output.hidden_states[-1][0, places]
        logits.append(output.logits[0, places])
        scores.append(gate.outer(torch.relu(gate.inner(hidden)))[:, 0])
    weights = torch.stack(scores, 1).softmax(1)
    labels = [token for response in example.responses for token in response.tolist()]
    losses = []
    for position, label in enumerate(labels):
        fused = sum(weights[position, j] * logits[j][position] for j in range(len(specialists)))
        losses.append(fused.logsumexp(0) - fused[label])
    return torch.stack(losses)


def batch_loss(specialists: list[Any], gate: nn.Module, examples: list[Any], kind: str) -> torch.Tensor:
    """The loss of an optimiser batch: mean over its tokens, or sum over tokens and mean over examples."""
    losses = [token_losses(specialists, gate, example) for example in examples]
    if kind == "token_mean":
        return torch.cat(losses).mean()
    return torch.stack([loss.sum() for loss in losses]).mean()


def train(model: Any, parameters: list[nn.Parameter], batches: list[list[Any]], stage: Any) -> list[float]:
    """AdamW with a cosine schedule, one batch a step; returns the loss of each step."""
    optimiser = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=0.0)
    losses = []
    for step, examples in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = stage.learning_rate * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        loss = batch_loss(model.specialists, model.gate, examples, stage.loss)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, stage.max_grad_norm)
        optimiser.step()
        losses.append(loss.item())
    return losses
