"""Tiny bases and random adapters, and the slow truth: PEFT models run one by one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", {}),
    "Qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "Gemma3": ("Gemma3ForCausalLM", {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}),
    "GPT2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
}
TARGETS = {"GPT2": (["c_attn", "c_proj"], ["c_fc"])}  # of the two adapters
OTHERS = (["q_proj", "v_proj", "down_proj"], ["q_proj", "o_proj", "gate_proj"])


def make_base(kind: str, folder: Path, seed: int = 0) -> Path:
    """A random model of an architecture, saved."""
    name, options = BASES[kind]
    model_class = getattr(transformers, name)
    fields = dict(SIZES)
    if kind == "GPT2":
        for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "head_dim"):
            del fields[field]
    torch.manual_seed(seed)
    model_class(model_class.config_class(**(fields | options))).save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int, **options: Any) -> Path:
    """A random adapter on `base`, both matrices drawn, saved by PEFT; `options` are LoraConfig's."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(seed)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(settings | options)))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    wrapped.save_pretrained(folder)
    return folder


def make_pair(kind: str, root: Path) -> tuple[Path, dict[str, Path]]:
    """A base and two adapters on it that differ in rank, alpha, scaling and layers."""
    base = make_base(kind, root / "base")
    first, second = TARGETS.get(kind, OTHERS)
    return base, {
        "math": make_adapter(base, root / "math", 1, target_modules=first),
        "text": make_adapter(base, root / "text", 2, r=3, lora_alpha=5, use_rslora=True, target_modules=second),
    }


class OneByOne:
    """The fused model by hand: plain and PEFT models, the gate's weights taken from `fused`."""

    def __init__(self, base: Path, adapters: Sequence[Path | None], fused: Any) -> None:
        self.models = [self._open(base, adapter) for adapter in adapters]
        self.gate = fused.gate

    @staticmethod
    def _open(base: Path, adapter: Path | None) -> Any:
        model = AutoModelForCausalLM.from_pretrained(base)
        return model.eval() if adapter is None else PeftModel.from_pretrained(model, adapter, is_trainable=True).eval()

    def logits(self, sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> torch.Tensor:
        """Fused logits (K, V) at `places[j]` of `sequences[j]`, one unpadded sequence at a time."""
        hidden, logits = [], []
        for model, ids, where in zip(self.models, sequences, places, strict=True):
            output = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
            hidden.append(output.hidden_states[-1][0, list(where)])
            logits.append(output.logits[0, list(where)])
        weights = self.gate(hidden).softmax(-1)
        return sum(weights[:, j : j + 1] * own for j, own in enumerate(logits))

    @torch.no_grad()
    def greedy(self, prompts: Sequence[Sequence[int]], steps: int) -> list[int]:
        """Greedy tokens, everything computed again at every step."""
        answer: list[int] = []
        for _ in range(steps):
            sequences = [[*prompt, *answer] for prompt in prompts]
            answer.append(int(self.logits(sequences, [[len(s) - 1] for s in sequences])[0].argmax()))
        return answer
