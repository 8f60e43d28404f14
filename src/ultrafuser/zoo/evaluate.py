"""Held-out response loss of the zoo's models, in nats per response token, each model under its own template.

It knows nothing of how the models were trained. Shapes: B examples, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ultrafuser.zoo.sources import Piece
from ultrafuser.zoo.tokens import example_ids


@dataclass(frozen=True)
class Loss:
    """Summed negative log-likelihood in nats over some response tokens."""

    nats: float
    tokens: int
    examples: int

    @property
    def per_token(self) -> float:
        """Nats per response token."""
        return self.nats / self.tokens


def encode_all(
    wrapped: dict[str, PreTrainedTokenizerFast], pieces: list[Piece], max_length: int
) -> dict[str, list[tuple[list[int], list[int]]]]:
    """Prompt and response ids per model; an example too long under any template is left out for all of them."""
    encoded: dict[str, list[tuple[list[int], list[int]]]] = {name: [] for name in wrapped}
    for piece in pieces:
        views = {name: example_ids(tokenizer, piece.messages) for name, tokenizer in wrapped.items()}
        if max(len(prompt) + len(response) for prompt, response in views.values()) <= max_length:
            for name, view in views.items():
                encoded[name].append(view)
    return encoded


@torch.inference_mode()
def response_loss(model: LlamaForCausalLM, examples: list[tuple[list[int], list[int]]], batch: int = 16) -> Loss:
    """Loss on the response tokens of (prompt ids, response ids) pairs."""
    model.eval()
    nats, tokens = 0.0, 0
    ordered = sorted(examples, key=lambda example: len(example[0]) + len(example[1]))
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        width = max(len(prompt) + len(response) for prompt, response in part)
        ids_BT = torch.zeros(len(part), width, dtype=torch.long)
        labels_BT = torch.full((len(part), width), -100, dtype=torch.long)
        for row, (prompt, response) in enumerate(part):
            end = len(prompt) + len(response)
            ids_BT[row, :end] = torch.tensor(prompt + response)
            labels_BT[row, len(prompt) : end] = torch.tensor(response)
        logits_BTV = model(input_ids=ids_BT).logits.float()
        nats += torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        ).item()
        tokens += int((labels_BT[:, 1:] != -100).sum())
    return Loss(nats, tokens, len(examples))


def open_folder(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A published model, its stored weights computed with in float32, and its tokenizer."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return model, tokenizer


def loss_table(
    folders: dict[str, Path], heldout: dict[str, list[Piece]], max_length: int
) -> dict[str, dict[str, Loss]]:
    """Loss by model name and domain; the same examples for every model."""
    opened = {name: open_folder(folder) for name, folder in folders.items()}
    table: dict[str, dict[str, Loss]] = {name: {} for name in folders}
    for domain, pieces in heldout.items():
        encoded = encode_all({name: tokenizer for name, (_, tokenizer) in opened.items()}, pieces, max_length)
        for name, (model, _) in opened.items():
            table[name][domain] = response_loss(model, encoded[name])
    return table


def margins(losses: dict[str, dict[str, float]]) -> dict[str, float]:
    """By domain: the best loss among the other models less that of the domain's own specialist, in nats per token."""
    return {
        domain: min(row[domain] for name, row in losses.items() if name != domain) - losses[domain][domain]
        for domain in losses
        if domain in losses[domain]
    }


@torch.inference_mode()
def greedy_answers(
    folder: Path, conversations: list[list[dict[str, str]]], max_new_tokens: int = 160, batch: int = 32
) -> list[str]:
    """A published model's greedy answers to conversations that end in a question, without the end token."""
    model, tokenizer = open_folder(folder)
    model.eval()
    tokenizer.padding_side = "left"
    answers: list[str] = []
    for start in range(0, len(conversations), batch):
        prompts = [
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for messages in conversations[start : start + batch]
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        ids_BT = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        new_BT = ids_BT[:, inputs["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(new_BT, skip_special_tokens=True)
    return answers
