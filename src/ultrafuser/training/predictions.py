"""What the loss needs of the specialists' predictions, stored beside their hidden states: then no head runs in a step.

    FOLDER/labels/  0.bin               (rows, N): x of the label; all that the rule `probabilities` needs
    FOLDER/logits/  0.bin ..            (rows, V): x_0, then d_1 .. d_(N-1); the rule `logits`, small vocabularies
    FOLDER/evidence/ 0.bin              (rows, N F): what an evidence gate reads, beside any of the others
    FOLDER/points/  0.bin ..            (points,): the same of merged tokens; the rule `logits`, large vocabularies
                    then counts, own, gaps: (rows,) int32, (rows, N), (rows, N): points of a row, x of the label, gaps
    and in each     done.json           key, rows that are there, bytes of each file up to them

x_j is a log probability under specialist j, d_j = x_j - x_0, numbers are float32 unless told otherwise. Files grow row
by row. Legend: R rows (response positions), M rows of a batch, N specialists, V vocabulary, F features.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ultrafuser import files
from ultrafuser.modeling.evidence import FEATURES, evidence_of
from ultrafuser.modeling.fusion import FUSION_RULES, mix_logits, mix_probabilities
from ultrafuser.training.points import merge_tokens

__all__ = ["KINDS", "Predictions", "choose_kind", "expected_bytes", "room", "store_predictions"]

SMALL_VOCABULARY = 16_384  # up to here the logits of all tokens are kept
SHARE = 0.5  # of the free disk, and of the memory, that predictions may take: beyond, each step would wait for the disk
HELD = 64 * 2**20  # bytes of logits held at once while storing
SAMPLE = 24  # rows that the number of points is estimated from
RECORD = "done.json"
Progress = Callable[[int, int], None]


class Predictions:
    """Stored predictions of one kind; `take` gives what `fused_from_states` wants of them for a batch."""

    kind = what = ""

    def __init__(self, parent: Path, n: int, vocabulary: int) -> None:
        self.folder = parent / self.kind
        self.n = n
        self.vocabulary = vocabulary

    def n_files(self) -> int:
        """How many files there are."""
        raise NotImplementedError

    def encode(self, logs_NRV: Sequence[torch.Tensor], labels_R: torch.Tensor) -> list[torch.Tensor]:
        """What is added to each file for these rows."""
        raise NotImplementedError

    def open(self) -> None:
        """Map the files into memory."""
        raise NotImplementedError

    def take(self, places: Sequence[slice]) -> dict[str, Any]:
        """What the loss wants of the rows at these places, one after the other."""
        raise NotImplementedError

    def size(self) -> int:
        """Bytes on the disk."""
        return sum(self.path(i).stat().st_size for i in range(self.n_files()))

    def path(self, i: int) -> Path:
        """File number i."""
        return self.folder / f"{i}.bin"

    def _mapped(self, i: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        count = self.path(i).stat().st_size // dtype.itemsize
        flat = torch.from_file(str(self.path(i)), shared=True, size=count, dtype=dtype)
        return flat.view(-1, width) if width > 1 else flat


class LabelPredictions(Predictions):
    """Each specialist's log probability of the label."""

    kind = "labels"
    what = "each specialist's log probability of the label"

    def n_files(self) -> int:
        """See `Predictions`."""
        return 1

    def encode(self, logs_NRV: Sequence[torch.Tensor], labels_R: torch.Tensor) -> list[torch.Tensor]:
        """See `Predictions`."""
        return [_own(logs_NRV, labels_R)]

    def open(self) -> None:
        """See `Predictions`."""
        self.own = self._mapped(0, self.n)

    def take(self, places: Sequence[slice]) -> dict[str, Any]:
        """{"own": (M, N)}."""
        return {"own": torch.cat([self.own[place] for place in places])}


class LogitPredictions(Predictions):
    """A log probability for each specialist and token."""

    kind = "logits"
    what = "each specialist's log probability of every token"

    def n_files(self) -> int:
        """See `Predictions`."""
        return self.n

    def encode(self, logs_NRV: Sequence[torch.Tensor], labels_R: torch.Tensor) -> list[torch.Tensor]:
        """See `Predictions`."""
        return [logs_NRV[0], *(logs - logs_NRV[0] for logs in logs_NRV[1:])]

    def open(self) -> None:
        """See `Predictions`."""
        self.values = [self._mapped(j, self.vocabulary) for j in range(self.n)]

    def take(self, places: Sequence[slice]) -> dict[str, Any]:
        """{"pieces": N tensors (rows, V) for each place}: parts of the files themselves, nothing is copied."""
        return {"pieces": [[values[place] for values in self.values] for place in places]}


class PointPredictions(Predictions):
    """Log probabilities of merged tokens, see `points.merge_tokens`."""

    kind = "points"
    what = "each specialist's log probabilities, those of unlikely tokens merged"

    def n_files(self) -> int:
        """See `Predictions`."""
        return self.n + 3

    def encode(self, logs_NRV: Sequence[torch.Tensor], labels_R: torch.Tensor) -> list[torch.Tensor]:
        """See `Predictions`."""
        merged = merge_tokens(logs_NRV)
        return [*merged.values, merged.counts.int(), _own(logs_NRV, labels_R), merged.gaps]

    def open(self) -> None:
        """See `Predictions`."""
        self.values = [self._mapped(j, 1) for j in range(self.n)]
        self.counts = self._mapped(self.n, 1, torch.int32).long()
        self.ends = np.concatenate([[0], self.counts.cumsum(0).numpy()])
        self.own, self.gaps = self._mapped(self.n + 1, self.n), self._mapped(self.n + 2, self.n)

    def take(self, places: Sequence[slice]) -> dict[str, Any]:
        """{"values": N tensors (points,), "counts": (M,), "own": (M, N), "gaps": (M, N)}."""
        spans = [slice(int(self.ends[place.start]), int(self.ends[place.stop])) for place in places]
        return {
            "values": [torch.cat([values[span] for span in spans]) for values in self.values],
            "counts": torch.cat([self.counts[place] for place in places]),
            "own": torch.cat([self.own[place] for place in places]),
            "gaps": torch.cat([self.gaps[place] for place in places]),
        }


class EvidencePredictions(Predictions):
    """What an evidence gate reads, see `modeling.evidence`; the loss needs one of the others beside it."""

    kind = "evidence"
    what = "how sure each specialist is and how far all agree"

    def n_files(self) -> int:
        """See `Predictions`."""
        return 1

    def encode(self, logs_NRV: Sequence[torch.Tensor], labels_R: torch.Tensor) -> list[torch.Tensor]:
        """See `Predictions`."""
        return [evidence_of(logs_NRV).flatten(1)]

    def open(self) -> None:
        """See `Predictions`."""
        self.evidence = self._mapped(0, self.n * len(FEATURES)).view(-1, self.n, len(FEATURES))

    def take(self, places: Sequence[slice]) -> dict[str, Any]:
        """{"evidence": (M, N, F)}."""
        return {"evidence": torch.cat([self.evidence[place] for place in places])}


KINDS: dict[str, type[Predictions]] = {
    kind.kind: kind for kind in (LabelPredictions, LogitPredictions, PointPredictions, EvidencePredictions)
}


def choose_kind(model: Any, rows: int, folder: Path) -> str | None:
    """The kind that serves the model's rule and fits; None where the heads have to run at every step."""
    function = FUSION_RULES[model.config.fusion["rule"]]
    if function is mix_probabilities:
        return LabelPredictions.kind
    if function is not mix_logits:
        return None
    dense = 4 * rows * model.n_specialists * model.config.vocab_size
    small = model.config.vocab_size <= SMALL_VOCABULARY and dense <= room(folder)
    return LogitPredictions.kind if small else PointPredictions.kind


def room(folder: Path) -> int:
    """Bytes that predictions in `folder` may take: half of the free disk, and no more than half of the memory."""
    known = [parent for parent in (folder, *folder.parents) if parent.is_dir()]
    free = shutil.disk_usage(known[0]).free
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else free
    return int(SHARE * min(free, pages))


@torch.no_grad()
def expected_bytes(model: Any, stored: Any, kind: str) -> int:
    """Disk space of a kind for all rows; for points, estimated from a few rows."""
    rows, n, vocabulary = stored.rows, model.n_specialists, model.config.vocab_size
    if kind != PointPredictions.kind:
        each = {LogitPredictions.kind: vocabulary, EvidencePredictions.kind: len(FEATURES)}.get(kind, 1)
        return 4 * rows * n * each
    index = torch.linspace(0, rows - 1, min(rows, SAMPLE)).long()
    points = merge_tokens(_logs(model, [array[index] for array in stored.arrays])).counts.double().mean().item()
    return int(4 * rows * (n * points + 2 * n + 1))


def store_predictions(model: Any, stored: Any, kind: str, progress: Progress | None = None) -> Predictions:
    """Run the heads over the stored hidden states of `StoredStates` and keep what the loss needs.

    What is there already is used: all of it, or the rows done before an interruption. `progress(rows done, all)`.
    Raises ValueError where another process is storing the same.
    """
    predictions = KINDS[kind](stored.folder, model.n_specialists, model.config.vocab_size)
    busy = f"states: another process is storing into {predictions.folder}; wait for it"
    with files.locked(predictions.folder / ".lock", busy):
        done, sizes = _done(predictions, stored.key)
        if done < stored.rows:
            _append(model, stored, predictions, done, sizes, progress)
    predictions.open()
    return predictions


def _append(
    model: Any,
    stored: Any,
    predictions: Predictions,
    done: int,
    sizes: Sequence[int],
    progress: Progress | None,
) -> None:
    """Add the rows from `done` on; a record after every chunk says how far it is."""
    labels = torch.from_numpy(np.concatenate([np.concatenate(e.responses) for e in stored.dataset.examples]))
    chunk = max(1, HELD // (4 * model.n_specialists * model.config.vocab_size))
    with ExitStack() as stack:
        opened = [stack.enter_context(predictions.path(i).open("ab")) for i in range(predictions.n_files())]
        for file, size in zip(opened, sizes, strict=True):
            file.truncate(size)
        while done < stored.rows:
            rows = slice(done, min(done + chunk, stored.rows))
            logs_NRV = _logs(model, [array[rows] for array in stored.arrays])
            for file, values in zip(opened, predictions.encode(logs_NRV, labels[rows]), strict=True):
                file.write(values.detach().cpu().contiguous().numpy().data)
                file.flush()
                os.fsync(file.fileno())
            done = rows.stop
            record = {"key": stored.key, "rows": done, "bytes": [file.tell() for file in opened]}
            files.write_json(predictions.folder / RECORD, record)
            if progress is not None:
                progress(done, stored.rows)


def _done(predictions: Predictions, key: str) -> tuple[int, list[int]]:
    """Rows that are there, and the bytes of each file up to them."""
    file, nothing = predictions.folder / RECORD, [0] * predictions.n_files()
    if not file.is_file():
        return 0, nothing
    record = json.loads(file.read_text(encoding="utf-8"))
    return (int(record["rows"]), list(record["bytes"])) if record["key"] == key else (0, nothing)


@torch.no_grad()
def _logs(model: Any, hidden_NRD: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Log probabilities of each specialist, N tensors (R, V) float32."""
    found = []
    for states, specialist, head in zip(hidden_NRD, model.specialists, model.heads, strict=True):
        states = states.to(device=head.module.weight.device, dtype=specialist.dtype)
        found.append(head.logits(states).to(model.device).float().log_softmax(-1))
    return found


def _own(logs_NRV: Sequence[torch.Tensor], labels_R: torch.Tensor) -> torch.Tensor:
    """Log probability of the label, (R, N)."""
    label_R1 = labels_R.to(logs_NRV[0].device).unsqueeze(-1)
    return torch.cat([logs.gather(-1, label_R1) for logs in logs_NRV], dim=-1)
