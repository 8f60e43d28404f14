"""What learns in a stage, in which number format, and the weights of exactly that as a file.

Frozen specialists are left out of every checkpoint: they are as they were, and storing them again at every save would
cost gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ultrafuser.lookup import lookup
from ultrafuser.modeling.adapters import freeze_base, is_shared
from ultrafuser.modeling.quantisation import quantisation_of, stored_parts

__all__ = [
    "ADAPTER_MARK",
    "TRAINABLE",
    "WEIGHTS_FILE",
    "fingerprint_of_weights",
    "load_weights",
    "save_weights",
    "select_trainable",
    "set_formats",
    "thaw",
    "trainable_state",
]

WEIGHTS_FILE = "weights.safetensors"
ADAPTER_MARK = ".lora_"  # in the names of PEFT's low-rank parameters
# name -> (gate learns, specialists learn)
TRAINABLE: dict[str, tuple[bool, bool]] = {"gate": (True, False), "all": (True, True), "specialists": (False, True)}


def select_trainable(model: Any, what: str) -> list[nn.Module]:
    """Lets the gate, all, or the specialists learn and freezes the rest; returns the frozen specialists.

    Specialists are those that the model lists as its `learners`. Of one with a low-rank adapter the adapter alone
    learns, and a base that several share never does.
    Raises ValueError for an unknown choice and where nothing can learn.
    """
    gate_learns, specialists_learn = lookup(TRAINABLE, what, "train")
    if specialists_learn:
        _refuse_quantised(model, what)
    thaw(model)
    model.gate.requires_grad_(gate_learns)
    learners = model.learners if specialists_learn else []
    for group, body in zip(model.config.groups, model.bodies, strict=True):
        learns = any(j in learners for j in group.members)
        adapter = [parameter for name, parameter in body.named_parameters() if ADAPTER_MARK in name]
        if adapter or not learns:
            body.requires_grad_(False)
        for parameter in adapter:
            parameter.requires_grad_(learns)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"train: {what!r} leaves nothing to learn; choose one of {', '.join(TRAINABLE)}")
    return [specialist for j, specialist in enumerate(model.specialists) if j not in learners]


def thaw(model: Any) -> None:
    """Let everything learn but the bases that several specialists share."""
    model.requires_grad_(True)
    for body in model.bodies:
        if is_shared(body):
            freeze_base(body)


def _refuse_quantised(model: Any, what: str) -> None:
    for name, specialist in zip(model.config.specialist_names, model.specialists, strict=True):
        kind = quantisation_of(specialist)
        if kind is not None:
            raise ValueError(
                f"train: {what!r} would change specialists.{name}, whose weights are {kind} and cannot learn; use "
                "train: gate, or open it without quantisation"
            )


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that learn, by name; tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_weights(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write tensors to `folder`/weights.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(contiguous, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy the tensors of `folder`/weights.safetensors into the model. Raises ValueError where they do not fit."""
    state = load_file(folder / WEIGHTS_FILE)
    parameters = dict(model.named_parameters())
    unknown = sorted(set(state) - set(parameters))
    if unknown:
        raise ValueError(f"{folder / WEIGHTS_FILE}: holds {unknown[0]!r}, which the model does not have")
    with torch.no_grad():
        for name, tensor in state.items():
            if parameters[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} for {tuple(parameters[name].shape)}"
                raise ValueError(f"{folder / WEIGHTS_FILE}: {name!r} has the shape {shapes}")
            parameters[name].copy_(tensor)


def set_formats(model: Any, half: Mapping[int, torch.dtype], learning: bool) -> None:
    """Specialists stored in 16 bits are float32 while they learn: in 16 bits small updates would be lost.

    `half` maps the index of each such specialist to its own number format, which it has whenever it is frozen.
    """
    for place, dtype in half.items():
        model.specialist(place).to(torch.float32 if learning else dtype)  # of an adapter on a base, the adapter alone


def fingerprint_of_weights(model: nn.Module) -> dict[str, str]:
    """A cheap mark of each part's weights: names, shapes, formats, and the first and last values of every tensor.

    It tells specialists apart without reading gigabytes; a change in the middle of a tensor alone goes unnoticed.
    """
    from hashlib import sha256

    digests: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        digest = digests.setdefault(name.split(".", 1)[0], sha256())
        for tensor in stored_parts(parameter.detach()):
            flat = tensor.reshape(-1)
            ends = torch.cat([flat[:256], flat[-256:]]).float().cpu()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(ends.numpy().tobytes())
    return {part: digest.hexdigest()[:16] for part, digest in digests.items()}
