"""Opening a specialist: a local folder or a Hub id with its revision, and a hash of its weights."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def is_folder_like(source: str | os.PathLike) -> bool:
    """Whether `source` is meant as a folder: it exists, or it is written like a path rather than like `owner/name`."""
    text = os.fspath(source)
    if isinstance(source, Path) or os.path.exists(os.path.expanduser(text)):
        return True
    return text.startswith((".", "~", os.sep)) or text.count("/") > 1 or (os.sep != "/" and os.sep in text)


def local_folder(source: str | os.PathLike, field: str = "source") -> Path:
    """The folder `source` names. Raises ValueError at once where it does not exist."""
    folder = Path(os.path.expanduser(os.fspath(source)))
    if not folder.is_dir():
        raise ValueError(f"{field}: folder {str(source)!r} does not exist; check the path")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{field}: folder {str(source)!r} has no config.json; it does not hold a model")
    return folder


def open_specialist(
    source: str | os.PathLike,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    field: str = "source",
) -> PreTrainedModel:
    """Load a causal LM from a folder or from the Hub. Raises ValueError where it is not one or cannot be read."""
    where = local_folder(source, field) if is_folder_like(source) else os.fspath(source)
    config = AutoConfig.from_pretrained(where, revision=revision)
    model = AutoModelForCausalLM.from_pretrained(where, config=config, revision=revision, dtype=dtype or "auto")
    return model.to(device) if device is not None else model


def content_hash(folder: str | os.PathLike) -> str:
    """SHA-256 over the weight files of a model folder, in order of name."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def describe(specialist: PreTrainedModel) -> dict[str, Any]:
    """The specialist's configuration as plain JSON, with its model type."""
    return specialist.config.to_diff_dict() | {"model_type": specialist.config.model_type}
