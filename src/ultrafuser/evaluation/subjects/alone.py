"""One specialist of a fused model by itself, as a fused model of one."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from ultrafuser.modeling.assemble import join
from ultrafuser.modeling.configuration import UltraFuserConfig

__all__ = ["only_specialist", "only_tokenizer"]


def only_specialist(model: Any, name: str) -> Any:
    """The specialist of that name as a fused model of one in its own template; its weights are shared, not copied.

    It answers as `model` does with all gate weight on that specialist, in its own tokens where tokenizers differ;
    `only_tokenizer` goes with it. Raises ValueError for an unknown name.
    """
    specialist = model.specialist(name)
    index, config = model.config.specialist_names.index(name), model.config
    ids = {f"{kind}_token_id": getattr(config, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    vocab_size, generation = config.vocab_size, model.generation_config
    if model.alignment is not None:
        table, own = model.alignment.tables[index], model.tokenizers[index]
        ends = model.alignment.eos[index].tolist()
        pad = own.pad_token_id if own.pad_token_id is not None else ends[0]
        ids = {"bos_token_id": own.bos_token_id, "eos_token_id": ends, "pad_token_id": pad}
        vocab_size, generation = len(table), GenerationConfig(**ids)
    single = UltraFuserConfig(
        specialists=[config.specialists[index]],
        specialist_names=[name],
        templates=[config.templates[index]],
        sources=[config.sources[index]],
        gate={"type": "constant", "seed": 0},
        fusion={"rule": config.fusion["rule"], "top_k": None},
        vocab_size=vocab_size,
        dtype=model.dtype,
        **ids,
    )
    alone = join(type(model), single, [specialist])
    alone.generation_config = generation
    return alone


def only_tokenizer(model: Any, tokenizer: Any, name: str) -> Any:
    """The tokenizer of that specialist: `tokenizer`, the model's, unless theirs differ."""
    return tokenizer if model.tokenizers is None else model.tokenizers[model.config.specialist_names.index(name)]
