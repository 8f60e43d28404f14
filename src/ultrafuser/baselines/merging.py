"""Merging model folders tensor by tensor, as a stream: no more than one file of the output is ever in memory.

Knows weights and names, nothing of data; the choice among merges is made in `merges`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ultrafuser.files import write_json
from ultrafuser.hashing import weight_files

__all__ = ["add_differences", "average", "by_variation", "check_alike", "merge_folders", "task_arithmetic", "variation"]

Rule = Callable[[Iterator[torch.Tensor]], torch.Tensor]
SHARD_BYTES = 2_000_000_000
COPIED = ("generation_config.json",)


def average(folders: Sequence[Path], output: Path, **options: Any) -> None:
    """The mean of every tensor of the models in `folders`, written to `output`; `options` as for `merge_folders`."""
    merge_folders(folders, output, _mean, **options)


def task_arithmetic(base: Path, folders: Sequence[Path], output: Path, scale: float, **options: Any) -> None:
    """base + scale * sum over the models of (model - base) (Ilharco et al. 2023, arXiv 2212.04089)."""
    merge_folders([base, *folders], output, lambda tensors: add_differences(tensors, scale), **options)


def add_differences(tensors: Iterator[torch.Tensor], scale: float) -> torch.Tensor:
    """The first tensor plus `scale` times the sum of the others' differences from it."""
    base = next(tensors)
    total = torch.zeros_like(base)
    for tensor in tensors:
        total += tensor - base
    return base + scale * total


def variation(pivot: Path, folders: Sequence[Path], output: Path, **options: Any) -> None:
    """VaRM: every matrix of the models weighted by the mean square of its change from `pivot` (see `by_variation`).

    Written to `output` with the pivot's settings; `options` as for `merge_folders`.
    """
    merge_folders([pivot, *folders], output, by_variation, **options)


def by_variation(tensors: Iterator[torch.Tensor]) -> torch.Tensor:
    """sum_j W_j x_j with W_j proportional to mean((x_j - x_0)^2), where x_0 is the first tensor; x_0 if none changed.

    Variation Ratio Merging of FuseChat (Wan et al. 2024, arXiv 2402.16107, section 3.4; the repository's `avg_param`).
    There a matrix that one model left as it was is averaged with equal weights; by the formula, and here, it weighs 0.
    """
    pivot, *others = tensors
    changes = torch.stack([(other - pivot).double().square().mean() for other in others])
    if not changes.sum() > 0:
        return pivot
    weights = (changes / changes.sum()).tolist()
    total = torch.zeros_like(pivot)
    for weight, other in zip(weights, others, strict=True):
        total += weight * other
    return total


def _mean(tensors: Iterator[torch.Tensor]) -> torch.Tensor:
    total, count = next(tensors).clone(), 1
    for tensor in tensors:
        total += tensor
        count += 1
    return total / count


def merge_folders(
    folders: Sequence[Path], output: Path, rule: Rule, *, dtype: str | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the model whose every tensor is `rule` of the models' tensors of that name, with the first's settings.

    `rule` gets the tensors one after the other, in float32 (float64 where one is stored so). `dtype` is the output's
    number format, None the widest of the models'. `output` is a folder that exists; configuration and weights go there.
    Raises ValueError as `check_alike` does, and where a tensor of whole numbers differs, which cannot be merged.
    """
    folders = [Path(folder) for folder in folders]
    with ExitStack() as stack:
        models = [_Weights(folder, stack) for folder in folders]
        check_alike(models)
        wide = _widest(models)
        target = wide if dtype in (None, "auto") else getattr(torch, str(dtype))
        work = torch.promote_types(wide, torch.float32)
        writer = _Shards(output, shard_bytes)
        for name in sorted(models[0].shapes):
            writer.add(name, _merged(name, models, rule, work, target))
        writer.finish()
    settings = json.loads((folders[0] / "config.json").read_text(encoding="utf-8"))
    settings.pop("torch_dtype", None)
    settings.pop("_name_or_path", None)
    write_json(output / "config.json", settings | {"dtype": str(target).removeprefix("torch.")})
    for name in COPIED:
        if (folders[0] / name).is_file():
            shutil.copyfile(folders[0] / name, output / name)


def _merged(name: str, models: Sequence[_Weights], rule: Rule, work: torch.dtype, target: torch.dtype) -> torch.Tensor:
    first = models[0].get(name)
    if not first.is_floating_point():
        for model in models[1:]:
            if not torch.equal(model.get(name), first):
                raise ValueError(
                    f"{model.folder}: {name} holds whole numbers that differ from those of {models[0].folder}; such "
                    "a tensor cannot be merged"
                )
        return first
    return rule(model.get(name).to(work) for model in models).to(target).contiguous()


def check_alike(models: Sequence[_Weights]) -> None:
    """Raise ValueError naming folder, tensor and fix where two models differ in kind, in a name or in a shape."""
    first = models[0]
    for model in models[1:]:
        if model.kind != first.kind:
            raise ValueError(
                f"{model.folder} is a {model.kind}, {first.folder} a {first.kind}; only models of one architecture "
                "can be merged"
            )
        for one, other in ((first, model), (model, first)):
            lacking = sorted(set(one.shapes) - set(other.shapes))
            if lacking:
                raise ValueError(
                    f"{other.folder} has no tensor {lacking[0]}, which {one.folder} has (it lacks {len(lacking)}); "
                    "only models with the same tensors can be merged"
                )
        for name, shape in first.shapes.items():
            if model.shapes[name] != shape:
                raise ValueError(
                    f"{model.folder}: {name} has the shape {model.shapes[name]}, in {first.folder} {shape}; only "
                    "models of the same sizes and vocabulary can be merged"
                )


class _Weights:
    """A model folder's tensors by name, read one at a time; open until `stack` closes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        if not (folder / "config.json").is_file():
            what = "is a GGUF file" if folder.suffix == ".gguf" else "has no config.json"
            raise ValueError(f"{folder} {what}; a merge needs folders of complete Transformers models")
        files = weight_files(folder)
        if not files:
            raise ValueError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin)")
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.kind = " ".join(settings.get("architectures") or [settings.get("model_type", "model of unknown kind")])
        self._get: dict[str, Callable[[], torch.Tensor]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            self._open(file, stack)

    def get(self, name: str) -> torch.Tensor:
        """A tensor, read from the disk."""
        return self._get[name]()

    def _open(self, file: Path, stack: ExitStack) -> None:
        if file.suffix == ".safetensors":
            opened = stack.enter_context(safe_open(file, framework="pt"))
            for name in opened.keys():  # noqa: SIM118 - not a dictionary
                self.shapes[name] = tuple(opened.get_slice(name).get_shape())
                self._get[name] = lambda name=name: opened.get_tensor(name)  # type: ignore[misc]
            return
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        for name, tensor in state.items():
            self.shapes[name] = tuple(tensor.shape)
            self._get[name] = lambda tensor=tensor: tensor  # type: ignore[misc]


def _widest(models: Iterable[_Weights]) -> torch.dtype:
    """The format that holds the numbers of all models; that of a model is its first floating tensor's."""
    wide: torch.dtype | None = None
    for model in models:
        for name in sorted(model.shapes):
            found = model.get(name).dtype
            if found.is_floating_point:
                wide = found if wide is None else torch.promote_types(wide, found)
                break
    return wide or torch.float32


class _Shards:
    """Writes tensors to as few files as `limit` bytes each allow, with an index where there are several."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.waiting: dict[str, torch.Tensor] = {}
        self.files: list[Path] = []
        self.places: dict[str, int] = {}
        self.bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor; what is waiting is written first where the file would grow over the limit."""
        waiting = sum(one.nbytes for one in self.waiting.values())
        if self.waiting and waiting + tensor.nbytes > self.limit:
            self._write()
        self.waiting[name] = tensor
        self.places[name] = len(self.files)
        self.bytes += tensor.nbytes

    def finish(self) -> None:
        """Write what is left and give the files their names."""
        self._write()
        if len(self.files) == 1:
            self.files[0].rename(self.folder / "model.safetensors")
            return
        names = [f"model-{i + 1:05d}-of-{len(self.files):05d}.safetensors" for i in range(len(self.files))]
        for file, name in zip(self.files, names, strict=True):
            file.rename(self.folder / name)
        index = {"metadata": {"total_size": self.bytes}, "weight_map": {n: names[i] for n, i in self.places.items()}}
        write_json(self.folder / "model.safetensors.index.json", index)

    def _write(self) -> None:
        file = self.folder / f"part-{len(self.files)}.safetensors"
        save_file(self.waiting, file, metadata={"format": "pt"})
        self.files.append(file)
        self.waiting = {}
