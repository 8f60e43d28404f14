"""Whether a specialist in memory still holds the weights of its files, found out one tensor at a time."""

from typing import Any

import torch
from safetensors import safe_open

from ultrafuser import gguf
from ultrafuser.adapter_files import read_adapter
from ultrafuser.hashing import weight_files
from ultrafuser.modeling.adapter_folders import read_matrices
from ultrafuser.modeling.quantisation import is_quantised, quantisation_of, stored_parts
from ultrafuser.modeling.specialists import Origin, open_specialist


def check_unchanged(name: str, specialist: Any, origin: Origin) -> None:
    """Raise ValueError where a specialist learned since it was opened: a gate-only checkpoint would lose that."""
    key = first_change(specialist, origin)
    if key is not None:
        key = first_change_reference(specialist, origin, name)  # files may name or lay out weights in another way
    if key is not None:
        raise ValueError(
            f"specialists.{name}: its weights differ from those in {str(origin.path)!r} (first in {key}), so it "
            "was trained after it was opened; a gate-only checkpoint would lose that. Save without gate_only"
        )


def check_adapter_unchanged(name: str, specialist: Any, origin: Origin) -> None:
    """As `check_unchanged` for the adapter of a specialist that shares its base."""
    stored = read_matrices(read_adapter(origin.folder, f"specialists.{name}"), origin).layers
    for layer, one in specialist.adapter().layers.items():
        pairs = zip((one.A, one.B), (stored[layer].A, stored[layer].B), strict=True)
        if not all(torch.equal(mine.detach().cpu(), theirs.to(mine.dtype)) for mine, theirs in pairs):
            raise ValueError(
                f"specialists.{name}: its adapter differs from that in {str(origin.path)!r} (first in {layer}), so it "
                "was trained after it was opened; a gate-only checkpoint would lose that. Save without gate_only, or "
                "the adapter with save_adapter"
            )


def first_change(specialist: Any, origin: Origin) -> str | None:
    """Name of the first weight that is not found in the files as it is in memory; None where all are.

    One tensor of the files is in memory at a time. Files that name or lay out their weights otherwise look changed.
    """
    folder = gguf.find_copy(origin.path) if origin.file is not None else origin.folder
    if folder is None:
        return "all of it: there is no converted copy"
    places: dict[str, Any] = {}
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            return "all of it: not in safetensors"
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    tied = {id(value) for key, value in specialist.state_dict(keep_vars=True).items() if key in places}
    for key, value in specialist.state_dict(keep_vars=True).items():
        if (key not in places and id(value) in tied) or is_quantised(value):  # quantised weights cannot learn
            continue
        if key not in places or not _same(value.detach(), places[key], key):
            return key
    return None


def _same(value: torch.Tensor, path: Any, key: str) -> bool:
    # Opened anew for each tensor, so that the pages of those read before do not stay mapped.
    with safe_open(path, framework="pt") as file:
        return torch.equal(value.cpu(), file.get_tensor(key).to(value.dtype))


def first_change_reference(specialist: Any, origin: Origin, name: str) -> str | None:
    """The same by opening the specialist a second time, in full."""
    again = open_specialist(
        origin.path, dtype=specialist.dtype, field=f"specialists.{name}", quantisation=quantisation_of(specialist)
    )
    stored = again.state_dict()
    for key, value in specialist.state_dict().items():
        parts = zip(stored_parts(value.detach()), stored_parts(stored[key]), strict=True)
        if not all(torch.equal(ours.cpu(), theirs.cpu()) for ours, theirs in parts):
            return key
    return None
