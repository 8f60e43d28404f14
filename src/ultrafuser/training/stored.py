"""The specialists' hidden states at response positions, computed once and kept on disk: a gate learns from them alone.

    FOLDER/states.json       key, rows, sizes, number formats, and how many examples are done
    FOLDER/specialistJ.bin   (rows, D_J): the response positions of all examples laid end to end, in the data's order

What the loss needs of the specialists' predictions lies beside them, see `predictions`. Without that, the heads run at
every step. B batch, R response positions of an example, M response positions of a batch laid end to end, D hidden, N
specialists.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ultrafuser import files
from ultrafuser.data import Example, ResponseCollator, ResponseDataset
from ultrafuser.data.collator import IGNORE
from ultrafuser.training.predictions import Predictions
from ultrafuser.training.stored_key import states_key

__all__ = [
    "StageStates",
    "StoredCollator",
    "StoredStates",
    "bytes_needed",
    "states_key",
    "store_states",
]

STATES_FILE = "states.json"
LOCK_FILE = ".lock"
WINDOW = 8  # batches between two notes of what is done; within a window batches hold examples of like length
FORMATS: dict[str, torch.dtype | None] = {"exact": None, "bfloat16": torch.bfloat16}  # None: the specialist's own
Progress = Callable[[int, int], None]


class StoredStates:
    """A data set together with its stored states; opened by `store_states`.

    As a sequence it holds (index, Example), which is what `StoredCollator` makes batches of.
    """

    def __init__(
        self,
        dataset: ResponseDataset,
        folder: Path,
        key: str,
        sizes: Sequence[int],
        formats: Sequence[torch.dtype],
    ) -> None:
        self.dataset = dataset
        self.folder = folder
        self.key = key
        self.sizes = list(sizes)
        self.offsets = offsets(dataset)
        self.predictions: Predictions | None = None
        self.evidence: Predictions | None = None
        self.arrays = [
            torch.from_file(str(_array_file(folder, j)), shared=True, size=self.rows * size, dtype=dtype).view(-1, size)
            for j, (size, dtype) in enumerate(zip(sizes, formats, strict=True))
        ]

    @property
    def rows(self) -> int:
        """Response positions of all examples."""
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Example]:
        return index, self.dataset[index]

    def states(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """Each specialist's states (M, D_j) of these examples laid end to end."""
        return [torch.cat([array[self._rows(index)] for index in indices]) for array in self.arrays]

    def known(self, indices: Sequence[int]) -> dict[str, Any] | None:
        """What is stored of the predictions for these examples, laid end to end; None where nothing is."""
        places = [self._rows(index) for index in indices]
        found: dict[str, Any] = {}
        for stored in (self.predictions, self.evidence):
            found |= stored.take(places) if stored is not None else {}
        return found or None

    def write(self, indices: Sequence[int], states_MD: Sequence[torch.Tensor]) -> None:
        """Put the states of these examples, laid end to end, in their places."""
        at = 0
        for index in indices:
            rows = self._rows(index)
            for array, states in zip(self.arrays, states_MD, strict=True):
                array[rows] = states[at : at + rows.stop - rows.start].to(array)
            at += rows.stop - rows.start

    def size(self) -> int:
        """Bytes on the disk, predictions included."""
        own = sum(_array_file(self.folder, j).stat().st_size for j in range(len(self.arrays)))
        return own + sum(stored.size() for stored in (self.predictions, self.evidence) if stored is not None)

    def flush(self) -> None:
        """Bring what was written to the disk."""
        for j in range(len(self.arrays)):
            with _array_file(self.folder, j).open("rb") as file:
                os.fsync(file.fileno())

    def _rows(self, index: int) -> slice:
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


class StageStates(NamedTuple):
    """What a stage learns from and is validated on."""

    train: StoredStates
    validation: StoredStates | None

    def describe(self, loss_bound: float) -> dict[str, Any]:
        """For the stage's record: what lies on the disk, and the bound on the error of a loss."""
        found = [states for states in self if states is not None]
        kinds = {states.predictions.kind if states.predictions is not None else None for states in found}
        kind = kinds.pop() if len(kinds) == 1 else None
        return {"predictions": kind, "gigabytes": sum(s.size() for s in found) / 1e9, "loss_bound": loss_bound}


class StoredCollator:
    """(index, Example) pairs to a batch for `fused_from_states`.

    Returns hidden (N tensors (M, D_j)), labels (B, R) with -100 padding and category (B,), as `ResponseCollator` does,
    and known, what is stored of the predictions.
    """

    def __init__(self, stored: StoredStates) -> None:
        self.stored = stored

    def __call__(self, pairs: Sequence[tuple[int, Example]]) -> dict[str, Any]:
        n_positions = max(example.n_response_tokens for _, example in pairs)
        labels_BR = np.full((len(pairs), n_positions), IGNORE, dtype=np.int64)
        for b, (_, example) in enumerate(pairs):
            labels_BR[b, : example.n_response_tokens] = np.concatenate(example.responses)
        indices = [index for index, _ in pairs]
        return {
            "hidden": self.stored.states(indices),
            "known": self.stored.known(indices),
            "labels": torch.from_numpy(labels_BR),
            "category": torch.tensor([example.category for _, example in pairs]),
        }


def store_states(
    model: Any,
    dataset: ResponseDataset,
    parent: str | Path,
    *,
    form: str = "exact",
    batch_size: int = 16,
    progress: Progress | None = None,
) -> StoredStates:
    """Run the specialists over `dataset` and keep their states in a folder of `parent` named by `states_key`.

    What is there already is used: all of it, or the examples done before an interruption. `form`: "exact" keeps each
    specialist's own number format, "bfloat16" takes half the space of float32. `progress(examples done, all)`.
    Raises ValueError, before anything runs, where the disk is too small or another process is storing the same.
    """
    key, formats = states_key(model, dataset, form), [FORMATS[form] or s.dtype for s in model.specialists]
    folder, sizes = Path(parent) / key[:16], model.config.hidden_sizes
    with files.locked(folder / LOCK_FILE, f"states: another process is storing into {folder}; wait for it"):
        done = _done(folder, key)
        if done < len(dataset):
            _reserve(folder, [int(offsets(dataset)[-1]) * d * f.itemsize for d, f in zip(sizes, formats, strict=True)])
        stored = StoredStates(dataset, folder, key, sizes, formats)
        while done < len(dataset):
            window = list(range(done, min(done + WINDOW * batch_size, len(dataset))))
            _compute(model, stored, window, batch_size)
            done += len(window)
            stored.flush()
            files.write_json(folder / STATES_FILE, {"key": key, "rows": stored.rows, "sizes": sizes, "done": done})
            if progress is not None:
                progress(done, len(dataset))
    return stored


def offsets(dataset: ResponseDataset) -> np.ndarray:
    """Where each example's rows begin, and after the last the number of all rows."""
    return np.concatenate([[0], np.cumsum([example.n_response_tokens for example in dataset.examples])])


def bytes_needed(model: Any, dataset: ResponseDataset, form: str = "exact") -> int:
    """Disk space of the stored states: response positions times the hidden sizes times the bytes of a number."""
    formats = [FORMATS[form] or specialist.dtype for specialist in model.specialists]
    row = sum(size * dtype.itemsize for size, dtype in zip(model.config.hidden_sizes, formats, strict=True))
    return int(offsets(dataset)[-1]) * row


def _array_file(folder: Path, j: int) -> Path:
    return folder / f"specialist{j}.bin"


def _done(folder: Path, key: str) -> int:
    """Examples whose states are in the folder."""
    file = folder / STATES_FILE
    if not file.is_file():
        return 0
    record = json.loads(file.read_text(encoding="utf-8"))
    return int(record["done"]) if record["key"] == key else 0


def _reserve(folder: Path, sizes: Sequence[int]) -> None:
    """Make the arrays' files at full size, so that a full disk is found now, with a ValueError."""
    paths = [_array_file(folder, j) for j in range(len(sizes))]
    missing = sum(max(0, size - (p.stat().st_size if p.is_file() else 0)) for p, size in zip(paths, sizes, strict=True))
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise ValueError(
            f"stored_states: {missing / 1e9:.2f} GB needed in {folder.parent}, {free / 1e9:.2f} GB free; free some, "
            "use stored_states: bfloat16 or fewer conversations, or remove it"
        )
    for path, size in zip(paths, sizes, strict=True):
        with path.open("ab") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)


@torch.no_grad()
def _compute(model: Any, stored: StoredStates, window: Sequence[int], batch_size: int) -> None:
    """States of the examples of `window`, in batches of like length."""
    dataset = stored.dataset
    collator = ResponseCollator(getattr(model.config, "pad_token_id", None))
    order = sorted(window, key=lambda index: -dataset.lengths[index])
    training = {module: module.training for module in [model, model.gate, *model.specialists]}
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = collator([dataset[index] for index in indices])
            keep_BR = batch.pop("labels") != IGNORE  # without labels no head runs
            del batch["category"]
            inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
            output = model(**inputs, output_hidden_states=True)
            stored.write(indices, [states[keep_BR.to(states.device)] for states in output.hidden_states])
    finally:
        for module, was_training in training.items():
            module.train(was_training)
