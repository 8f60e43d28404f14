"""Architectures other than Llama: nothing that loads may be refused, and the counts are those of the real model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ultrafuser.preflight.facts import read_facts
from ultrafuser.preflight.sources import SourceError, locate
from ultrafuser.recipe import SpecialistSource

SMALL = {
    "vocab_size": 258,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 258, "n_embd": 16, "n_layer": 2, "n_head": 2},
    "gpt_neox": SMALL,
    "qwen2": {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "gemma2": {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 30.0},
    "mixtral": {**SMALL, "num_key_value_heads": 2, "num_local_experts": 2},
    "opt": {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {"vocab_size": 258, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mamba": {"vocab_size": 258, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_models_that_load_are_not_refused(kind: str, make_model: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = make_model(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind]))
    model.save_pretrained(folder)
    facts = read_facts("x", locate(SpecialistSource(source=str(folder)), lambda source: source))
    assert facts.architecture == type(model).__name__
    assert facts.parameters == model.num_parameters()
    assert (facts.hidden_size, facts.layers, facts.vocab_rows) == (16, 2, 258)
    assert facts.dtype == "float32"
    assert bool(facts.soft_cap) is (kind == "gemma2")


def test_a_base_model_without_a_head_is_refused(make_model: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    folder = make_model(tmp_path)
    LlamaModel(LlamaConfig(**SMALL)).save_pretrained(folder)
    with pytest.raises(SourceError, match="its architecture is LlamaModel"):
        read_facts("x", locate(SpecialistSource(source=str(folder)), lambda source: source))


def test_end_tokens_come_from_the_generation_config_first(make_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_model(tmp_path, eos_token_id=[3, 4])
    source = SpecialistSource(source=str(folder))
    assert read_facts("x", locate(source, str)).config_eos == (3, 4)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert read_facts("x", locate(source, str)).config_eos == (5,)
    (folder / "generation_config.json").write_text("{}")
    assert read_facts("x", locate(source, str)).config_eos == (3, 4)
