"""Adapter folders read without PyTorch, against what PEFT writes and computes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ultrafuser.adapter_files import NOTE, WEIGHTS, find_base, is_adapter, read_adapter

SHA = "0123456789abcdef" * 4


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=64))


def save(folder: Path, **settings: Any) -> Any:
    """An adapter as PEFT saves it; its wrapped model."""
    given = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    wrapped = get_peft_model(tiny(), LoraConfig(**given))
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    save(folder)
    return folder


@pytest.fixture
def adapter(plain: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(plain, tmp_path / "adapter"))


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "r": 9},
        {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3}},
        {"alpha_pattern": {"v_proj": 11}, "rank_pattern": {"v_proj": 8}, "use_rslora": True},
        {"layers_to_transform": [1]},
    ],
)
def test_layers_ranks_and_scalings_are_those_of_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    wrapped = save(tmp_path / "a", **settings)
    facts = read_adapter(tmp_path / "a", "specialists.a")
    layers = {
        name: (part.r["default"], part.scaling["default"], part.in_features, part.out_features)
        for name, part in wrapped.get_base_model().named_modules()
        if hasattr(part, "lora_A")
    }
    found = {name: (one.rank, one.scaling, one.n_in, one.n_out) for name, one in facts.targets.items()}
    assert found == layers
    assert facts.rank == max(rank for rank, *_ in layers.values())
    assert facts.parameters == sum(p.numel() for name, p in wrapped.named_parameters() if "lora_" in name)
    assert (facts.dtype, facts.base_sha256) == ("float32", None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "has use_dora: true, which cannot be stacked; merge it into its base with PEFT"),
        ({"modules_to_save": ["lm_head"]}, 'has modules_to_save: ["lm_head"], which cannot be stacked'),
        ({"bias": "all"}, 'has bias: "all", which cannot be stacked'),
        ({"lora_bias": True}, "has lora_bias: true"),
        ({"init_lora_weights": "pissa"}, 'has init_lora_weights: "pissa"'),
        ({"trainable_token_indices": [1, 2]}, "has trainable_token_indices: [1, 2]"),
        ({"target_modules": ["embed_tokens"]}, "an adapter on an embedding"),
        ({"target_modules": ["q_proj", "lm_head"]}, "changes the head 'lm_head'"),
    ],
)
def test_what_peft_can_and_stacked_layers_cannot_is_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    save(tmp_path / "a", **settings)
    with pytest.raises(ValueError) as caught:
        read_adapter(tmp_path / "a", "specialists.a")
    text = str(caught.value)
    assert text.startswith(f"specialists.a: {str(tmp_path / 'a')!r} ")
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "has peft_type: 'IA3'; only LORA adapters"),
        ({"peft_type": None}, "has peft_type: None"),
        ({"target_parameters": ["mlp.experts"]}, "has target_parameters"),
        ({"layer_replication": [[0, 2]]}, "has layer_replication"),
        ({"r": 0}, "has r: 0; it must be a number above 0"),
        ({"lora_alpha": None}, "has lora_alpha: null"),
        ({"r": 8}, "says rank 8"),
        ({"alpha_pattern": {"(": 3}}, "the pattern '(': 3 is not usable"),
        ({"rank_pattern": [1]}, "has rank_pattern: [1]; it must be a mapping"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(adapter: Path, changes: dict[str, Any], words: str) -> None:
    configure(adapter, **changes)
    with pytest.raises(ValueError) as caught:
        read_adapter(adapter, "adapter")
    assert words in str(caught.value)


def test_missing_and_torn_weights_are_told(adapter: Path) -> None:
    weights = adapter / WEIGHTS
    whole, tensors = weights.read_bytes(), load_file(weights)
    lone = next(name for name in tensors if "lora_B" in name)
    states: list[tuple[Any, str]] = [
        (lambda: weights.write_bytes(whole[:-100]), "is cut short: 100 of"),
        (lambda: save_file({k: v for k, v in tensors.items() if k != lone}, weights), "q_proj has lora_A alone"),
        (lambda: save_file({"base_model.model.x.weight": torch.ones(2, 2)}, weights), "no weight of a linear layer"),
        (lambda: save_file({}, weights), "adapter_model.safetensors is empty"),
        (weights.unlink, "has adapter_config.json but no weights; add adapter_model.safetensors"),
        (lambda: (adapter / "adapter_model.bin").write_bytes(b"x"), "weights pickled (adapter_model.bin)"),
        ((adapter / "adapter_config.json").unlink, "holds no adapter: it has no adapter_config.json"),
        (lambda: (adapter / "adapter_config.json").write_text("[1]"), "is not a JSON object"),
        (lambda: (adapter / "adapter_config.json").write_text("{"), "cannot be read"),
    ]
    for change, words in states:
        change()
        with pytest.raises(ValueError) as caught:
            read_adapter(adapter, "adapter")
        assert words in str(caught.value)


def test_an_adapter_is_told_from_a_model(adapter: Path) -> None:
    assert is_adapter(adapter)
    (adapter / "config.json").write_text("{}")
    assert not is_adapter(adapter)
    assert not is_adapter(adapter / "missing")


def test_the_base_is_the_one_given_or_named(adapter: Path, tmp_path: Path) -> None:
    configure(adapter, base_model_name_or_path="../base")
    facts = read_adapter(adapter, "a")
    assert find_base(facts, "other", "main", "a") == ("other", "main")
    with pytest.raises(ValueError, match=r"^a: the adapter in .* names the base '../base', which is not here; name it"):
        find_base(facts, None, None, "a")
    (tmp_path / "base").mkdir()
    place, revision = find_base(facts, None, None, "a")
    assert (Path(place).resolve(), revision) == (tmp_path / "base", None)
    configure(adapter, base_model_name_or_path="owner/name", revision="abc")
    assert find_base(read_adapter(adapter, "a"), None, None, "a") == ("owner/name", "abc")
    configure(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="names no base model"):
        find_base(read_adapter(adapter, "a"), None, None, "a")


def test_the_hash_of_the_base_is_read(adapter: Path) -> None:
    (adapter / NOTE).write_text(json.dumps({"base_sha256": SHA}))
    assert read_adapter(adapter, "a").base_sha256 == SHA
    (adapter / NOTE).write_text(json.dumps({"base_sha256": "abc"}))
    with pytest.raises(ValueError, match=r"has base_sha256: \"abc\", no hash"):
        read_adapter(adapter, "a")
