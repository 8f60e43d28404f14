"""Small model folders written without PyTorch: configuration, tokenizer, safetensors, card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ultrafuser.recipe import Recipe

HIDDEN, INNER, LAYERS = 16, 32, 2
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'A:' + m['content'] + eos_token }}"
    "{% elif m['role'] == 'system' %}{{ m['content'] + '\n' }}{% else %}{{ 'U:' + m['content'] + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)


def byte_vocabulary() -> dict[str, int]:
    """Two special tokens and the 256 bytes."""
    tokens = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return {token: index for index, token in enumerate(tokens)}


def write_tokenizer(folder: Path, vocabulary: dict[str, int], **settings: Any) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token in vocabulary if token.startswith("<") and len(token) > 2]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "chat_template": TEMPLATE,
        **settings,
    }
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))


def weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (rows, hidden), "model.norm.weight": (hidden,)}
    for i in range(config["num_hidden_layers"]):
        for name in ("q", "k", "v", "o"):
            shapes[f"model.layers.{i}.self_attn.{name}_proj.weight"] = (hidden, hidden)
        shapes[f"model.layers.{i}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (hidden,)
        shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (rows, hidden)
    return {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}


def write_model(
    folder: Path,
    *,
    vocabulary: dict[str, int] | None = None,
    tokenizer: dict[str, Any] | None = None,
    licence: str | None = "apache-2.0",
    **config: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = vocabulary or byte_vocabulary()
    whole = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 1,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(whole))
    save_file(weights(whole), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, vocabulary, **(tokenizer or {}))
    if licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# model\n")
    return folder


def write_data(file: Path, count: int = 8, words: int = 3, start: int = 0) -> Path:
    records = [
        {"instruction": f"{file.stem} {start + i}: say something", "output": " ".join(["word"] * words)}
        for i in range(count)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture
def make_model() -> Callable[..., Path]:
    """Writes a model folder."""
    return write_model


@pytest.fixture
def make_data() -> Callable[..., Path]:
    """Writes a JSONL file of instructions."""
    return write_data


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of two specialists and two domains in tmp_path that passes the check; keywords replace its fields."""
    for name in ("text", "code"):
        if not (tmp_path / "models" / name).exists():
            write_model(tmp_path / "models" / name)
        write_data(tmp_path / "data" / f"{name}.jsonl")

    def make(**changes: Any) -> Recipe:
        fields: dict[str, Any] = {
            "name": "pair",
            "specialists": {name: {"source": f"models/{name}"} for name in ("text", "code")},
            "data": {name: {"train": [f"data/{name}.jsonl"]} for name in ("text", "code")},
            "stages": [
                {"name": "gate", "train": "gate", "steps": 4, "examples_per_category": 4, "learning_rate": 1e-3},
                {"name": "all", "train": "all", "steps": 4, "examples_per_category": 2, "learning_rate": 1e-3},
            ],
            "max_length": 256,
            "device": "cpu",
            "output": "out",
        }
        return Recipe(**{**fields, **changes}).absolute(tmp_path)

    return make
