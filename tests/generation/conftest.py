"""Specialists of different architecture, size and tokenizer: random models, tokenizers trained here."""

import json
from pathlib import Path

import pytest
import torch

TEXT = [
    "the quick brown fox jumps over the lazy dog and then it sleeps under the tree",
    "roses are red, violets are blue, and the naïve café owner says: Überraschung!",
    "数学は美しい。数学は楽しい。 \U0001f98a \U0001f600 the end of the story, they said",
]
CODE = [
    "def add(a, b):\n    return a + b\n\n\nclass Stack:\n    def __init__(self):\n        self.items = []\n",
    "for i in range(10):\n    if i % 2 == 0:\n        print(f'{i} is even')\n    else:\n        pass\n",
    "import numpy as np\nx = np.zeros((3, 3))\nassert x.shape == (3, 3)  # the shape\n",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)


def byte_level(texts, size, specials):
    """A byte-level BPE tokenizer; `specials` are bos, eos, pad, in that order of ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return _wrapped(inner, specials, unk_token="<pad>")


def sentence_piece(texts, size, specials):
    """A tokenizer as Gemma's: pieces with visible spaces, and 256 byte pieces for what has none."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    learnt = json.loads(inner.to_str())["model"]
    first = [*specials, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = first + [piece for piece in learnt["vocab"] if piece not in first]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt["merges"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    whole = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    whole.normalizer = normalizers.Replace(" ", "\u2581")
    whole.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrapped(whole, specials, unk_token="<unk>")


def _wrapped(inner, specials, **options):
    from transformers import PreTrainedTokenizerFast

    bos, eos, pad = (next(s for s in specials if name in s) for name in ("bos", "eos", "pad"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token=pad, clean_up_tokenization_spaces=False,
        **options,
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _model(config_class, model_class, tokenizer, seed, **fields):
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = config_class(
        vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.4, **ids, **fields
    )
    torch.manual_seed(seed)
    model = model_class(config).eval()
    model.generation_config.update(**ids)
    return model


@pytest.fixture(scope="session")
def tongue_folders(tmp_path_factory) -> dict[str, Path]:
    """A Qwen2 with a byte-level tokenizer and a Gemma 3 (window of 8 tokens) with byte fallback, as folders."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen2Config, Qwen2ForCausalLM

    root = tmp_path_factory.mktemp("tongues")
    code = byte_level(CODE, 360, ["<pad>", "<eos>", "<bos>"])
    text = sentence_piece(TEXT, 200, ["<eos>", "<bos>", "<pad>"])
    models = {
        "code": _model(
            Qwen2Config, Qwen2ForCausalLM, code, 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2,
        ),
        "text": _model(
            Gemma3TextConfig, Gemma3ForCausalLM, text, 2, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=1, head_dim=12, sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    }  # fmt: skip
    for (name, model), tokenizer in zip(models.items(), (code, text), strict=True):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in models}
