"""Building a fused model from its parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.specialists import describe, open_specialist


def assemble(  # type: ignore[no-untyped-def]
    model_class,
    sources: Mapping[str, str | Path | PreTrainedModel],
    templates: Mapping[str, str | None] | None,
    gate: str | Mapping[str, Any],
    fusion: str | Mapping[str, Any],
    seed: int,
    dtype: torch.dtype | str | None,
    device: str | torch.device | None,
    vocab_size: int | None,
    revisions: Mapping[str, str] | None,
):
    """See `UltraFuserForCausalLM.from_specialists`."""
    specialists = [
        s
        if isinstance(s, PreTrainedModel)
        else open_specialist(s, (revisions or {}).get(name), dtype, field=f"specialists.{name}")
        for name, s in sources.items()
    ]
    first = specialists[0].config
    config = UltraFuserConfig(
        specialists=[describe(s) for s in specialists],
        specialist_names=list(sources),
        templates=[(templates or {}).get(name) or "" for name in sources],
        gate={**({"type": gate} if isinstance(gate, str) else gate), "seed": seed},
        fusion={"rule": fusion} if isinstance(fusion, str) else dict(fusion),
        vocab_size=vocab_size,
        bos_token_id=first.bos_token_id,
        eos_token_id=first.eos_token_id,
        pad_token_id=first.pad_token_id,
        dtype=specialists[0].dtype,
    )
    with no_init_weights():
        model = model_class(config, specialists=specialists)
    model.gate.reset_parameters(seed)
    model.eval()
    return model.to(device) if device is not None else model
