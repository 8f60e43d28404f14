"""A trio of tiny random specialists with a tokenizer and templates, and a small sample, as files: a demo in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

from ultrafuser.demo import DemoPlan, DemoSources

WORDS = {
    "text": ["the", "cat", "sat", "by", "a", "warm", "door", "and", "told", "me", "of", "rain", "in", "spring"],
    "code": ["def", "total", "(", "x", ")", ":", "return", "sum", "x", "for", "i", "in", "range", "print"],
    "math": ["so", "12", "plus", "7", "is", "19", "and", "19", "times", "2", "equals", "38", "thus"],
}
TEMPLATES = {
    "text": "User: {0} Answer:",
    "code": "[INST] {0} [/INST]",
    "math": "A problem follows below. {0} ### Response:",
}
BODY = (
    "{%% for m in messages %%}{%% if m['role'] == 'user' %%}%s{%% else %%} {{ m['content'] }}{{ eos_token }}"
    "{%% endif %%}{%% endfor %%}"
)
MICRO_PLAN = DemoPlan(
    max_length=200, gate_steps=4, gate_examples=2, full_steps=4, full_examples=2, batch_size=8, written_tokens=5
)


def micro_sources(folder: Path) -> DemoSources:
    """Write specialists and data under `folder`."""
    specialists = {name: _specialist(folder / f"model-{name}", name, seed) for seed, name in enumerate(WORDS)}
    rng = random.Random(5)
    data = {}
    for domain in WORDS:
        data[domain] = {
            "train": _write(
                folder / domain / "train.jsonl", [_record(rng, f"{domain}-t{i}", [domain], i // 2) for i in range(14)]
            ),
            "heldout": _write(
                folder / domain / "heldout.jsonl", [_record(rng, f"{domain}-h{i}", [domain], i) for i in range(5)]
            ),
        }
    mixed = [_record(rng, f"composite-{i}", list(WORDS), i) for i in range(4)]
    data["composite"] = {"heldout": _write(folder / "composite" / "heldout.jsonl", mixed)}
    return DemoSources(specialists=specialists, data=data)


def _record(rng: random.Random, name: str, domains: list[str], family: int) -> dict:
    words = [word for domain in domains for word in rng.choices(WORDS[domain], k=6)]
    question = " ".join(rng.choices(WORDS[domains[0]], k=4))
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": " ".join(words)}]
    return {"id": name, "family": f"{domains[0]}-{family}", "messages": messages}


def _write(path: Path, records: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def _specialist(folder: Path, name: str, seed: int) -> str:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(words) for words in WORDS.values()], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = BODY % TEMPLATES[name].replace("{0}", "{{ m['content'] }}")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
