"""The weights of a GGUF file, unpacked into an ordinary model; its other parts are read by `ultrafuser.gguf`."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ultrafuser.gguf import check_file, end_ids, is_gguf, licence, open_tokenizer
from ultrafuser.gguf.parts import alone, first_line

__all__ = ["check_file", "is_gguf", "licence", "open_weights"]


def open_weights(
    path: Path, config: PreTrainedConfig, dtype: torch.dtype | str | None, field: str, **options: Any
) -> PreTrainedModel:
    """The model as an ordinary one of its class: weights unpacked to `dtype`, float32 where none is named.

    Raises ValueError where they do not load or some are missing.
    """
    if dtype in (None, "auto"):
        dtype = torch.float32
    packing = getattr(transformers, "GgufConfig", None)  # of versions that can keep the weights packed
    if packing is not None:
        options["quantization_config"] = packing(dequantize=True)
    try:
        with alone(path) as folder:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=path.name, config=config, dtype=dtype, output_loading_info=True, **options
            )
    except (RuntimeError, ValueError, KeyError, NotImplementedError, OSError) as error:
        raise ValueError(f"{field}: the weights in {str(path)!r} do not load: {first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{field}: {str(path)!r} lacks {len(missing)} weights, first {missing[0]!r}; download it again"
        )
    _forget_packing(model)
    tokenizer = open_tokenizer(path, field)
    model.generation_config.eos_token_id = end_ids(path, model.config.eos_token_id, tokenizer, field)
    return model


def _forget_packing(model: PreTrainedModel) -> None:
    """Take away what marks the model as quantised: its weights are ordinary ones, and can be trained and saved."""
    model.hf_quantizer = None
    for name in ("quantization_method", "is_quantized", "_weight_conversions"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
