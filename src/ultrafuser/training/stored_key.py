"""What names stored states: everything that decides them, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from ultrafuser.data import ResponseDataset
from ultrafuser.modeling.quantisation import stored_parts

__all__ = ["states_key"]


def states_key(model: Any, dataset: ResponseDataset, form: str = "exact") -> str:
    """sha256 over every id of the data as each specialist reads it, every weight of the specialists, and the format.

    The gate has no part in it: gates and seeds share the states.
    """
    digest, seen = hashlib.sha256(f"{form} {dataset.content_hash()}".encode()), dict[Any, tuple[bytes, torch.Tensor]]()
    for specialist in model.specialists:
        settings = {k: v for k, v in specialist.config.to_dict().items() if k not in ("_name_or_path", "use_cache")}
        adapted = getattr(getattr(specialist, "row", None), "layers", {})  # ranks and scalings of an adapter on a base
        digest.update(json.dumps([settings, sorted(adapted.items())], sort_keys=True, default=str).encode())
        for name, tensor in (*specialist.named_parameters(), *specialist.named_buffers()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            for part in stored_parts(tensor.detach()):
                mark = (part.data_ptr(), part.dtype, part.shape, part.stride())
                if mark not in seen:  # bases and heads may be shared; kept, so that no other takes its address
                    seen[mark] = _hash(part), part
                digest.update(seen[mark][0])
    return digest.hexdigest()


def _hash(tensor: torch.Tensor) -> bytes:
    flat = tensor.cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).digest()
