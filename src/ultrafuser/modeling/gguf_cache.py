"""The converted copy of a GGUF file: made at its first opening, an ordinary Transformers folder from then on."""

import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from ultrafuser.files import locked, write_whole
from ultrafuser.gguf import cache_folder, check_file, find_copy, open_tokenizer
from ultrafuser.gguf.copies import copy_place, file_hash, mark_copy, note, whole_copy
from ultrafuser.modeling.gguf import open_weights
from ultrafuser.modeling.storage import staged

__all__ = ["copy_or_model"]

WAIT = 0.2  # seconds between two looks at a copy that another process is making
SHARD = "4GB"


def copy_or_model(path: Path, config: PreTrainedConfig, field: str, **options: Any) -> Path | PreTrainedModel:
    """The folder of the file's converted copy (float32), made where there is none.

    Where none can be kept (disk full, cache not writable), the model itself and a warning of one line. Processes that
    open one file at once wait for the first of them. Raises ValueError as `open_weights` does.
    """
    found = find_copy(path)
    if found is not None:
        return found
    content = file_hash(path)
    with _turn(content) as refused:
        if whole_copy(content) is None:
            model = open_weights(path, config, torch.float32, field, **options)
            reason = refused or _keep(model, path, content, field)
            if reason is not None:
                warnings.warn(
                    f"{field}: {path.name} was opened directly, and will take as long each time: no converted copy can "
                    f"be kept in {cache_folder()} ({reason}); ULTRAFUSER_CACHE names another folder",
                    stacklevel=2,
                )
                return model
    note(path, content)
    return copy_place(content)


@contextmanager
def _turn(content: str) -> Iterator[OSError | None]:
    """Wait until nobody else converts this file; gives what is wrong with the cache where it cannot be written."""
    refused = None
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(cache_folder() / f".{content[:32]}.lock", "taken"))
            except OSError as error:
                refused = error
            except ValueError:
                time.sleep(WAIT)
                continue
            break
        yield refused


def _keep(model: PreTrainedModel, path: Path, content: str, field: str) -> Exception | None:
    """Write the copy, whole or not at all; gives what went wrong."""
    model.config._name_or_path = path.name
    try:
        with staged(copy_place(content), sum(p.numel() * p.element_size() for p in model.parameters())) as folder:
            model.save_pretrained(folder, max_shard_size=SHARD)
            open_tokenizer(path, field).save_pretrained(folder)
            write_whole(folder / "README.md", _card(path, content, field))
            mark_copy(folder, content, path.name)
    except (OSError, SafetensorError) as error:
        return error
    return None


def _card(path: Path, content: str, field: str) -> str:
    """The copy's model card: licence and origin as the file tells them."""
    said = {key.removeprefix("general."): value for key, value in check_file(path, field).items()}
    front = "".join(
        f"{key}: {said[name]}\n" for key, name in (("license", "license"), ("license_link", "license.link"))
        if isinstance(said.get(name), str)
    )  # fmt: skip
    lines = [
        f"# {said.get('name') or path.stem}",
        "",
        "The model of a GGUF file with its weights unpacked to float32, kept by `ultrafuser` so that it opens quickly.",
        "It can be deleted at any time: it is made again when it is needed.",
        "",
        f"- file: {path.name}, SHA-256 {content}",
        *(f"- {name}: {said[name]}" for name in ("source.url", "repo_url", "license.link") if said.get(name)),
    ]
    return (f"---\n{front}---\n" if front else "") + "\n".join(lines) + "\n"
