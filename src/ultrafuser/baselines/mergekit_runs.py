"""Merges made by mergekit (optional package), whose methods are not written again here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_mergekit"]


def run_mergekit(
    method: str,
    folders: Sequence[Path],
    output: Path,
    *,
    base: Path | None = None,
    density: float = 1.0,
    scale: float = 1.0,
    select: float | None = None,
    dtype: str | None = None,
    seed: int = 0,
) -> None:
    """Merge `folders` by mergekit's `method` into `output`: configuration and weights, no tokenizer.

    `density` is the share of each difference from `base` that is kept, `scale` (mergekit's lambda) what their merge is
    multiplied with before it is added to the base, `select` the share of each tensor that SCE takes. What is random is
    drawn from `seed`; the caller's generators stay as they are. Raises ValueError where mergekit is not installed or
    refuses.
    """
    import torch

    try:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions
    except ModuleNotFoundError as error:
        raise ValueError(f"merging by {method} needs the package mergekit: pip install 'ultrafuser[merge]'") from error
    shared: dict[str, Any] = {} if base is None else {"lambda": scale}
    if select is not None:
        shared["select_topk"] = select
    own = {"weight": 1.0} if base is None else {"weight": 1.0, "density": density}
    settings = {
        "merge_method": method,
        "models": [{"model": str(folder), "parameters": own} for folder in folders],
        "parameters": shared,
        "dtype": "float32",
        **({} if base is None else {"base_model": str(base)}),
        **({} if dtype in (None, "auto") else {"out_dtype": dtype}),
    }
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            run_merge(MergeConfiguration.model_validate(settings), str(output), options)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"mergekit refuses to merge by {method}: {error}") from error
