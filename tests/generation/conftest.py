"""Two specialists of different architecture, size, context and tokenizer: random models, tokenizers trained here."""

from pathlib import Path

import pytest
import torch
from token_makers import byte_level, sentence_piece

TEXT = (
    "the quick brown fox jumps over the lazy dog and then it sleeps under the tree",
    "roses are red, violets are blue, and the naïve café owner says: Überraschung!",
    "数学は美しい。数学は楽しい。 \U0001f98a \U0001f600 the end of the story, they said",
)
CODE = (
    "def add(a, b):\n    return a + b\n\n\nclass Stack:\n    def __init__(self):\n        self.items = []\n",
    "for i in range(10):\n    if i % 2 == 0:\n        print(f'{i} is even')\n    else:\n        pass\n",
    "import numpy as np\nx = np.zeros((3, 3))\nassert x.shape == (3, 3)  # the shape\n",
)
TONGUE_TEMPLATES = {
    "code": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
        "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    ),
    "text": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
        "{% else %}{{ '\n' if not loop.first }}User: {{ m.content }}\nAssistant:{% endif %}{% endfor %}"
    ),
}


@pytest.fixture(scope="session")
def tongue_folders(tmp_path_factory) -> dict[str, Path]:
    """A Qwen 2 with a byte-level tokenizer and a Gemma 3 (window of 8 tokens) with byte fallback. Read only."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizers = {
        "code": byte_level(360, CODE, template=TONGUE_TEMPLATES["code"]),
        "text": sentence_piece(
            240, TEXT, template=TONGUE_TEMPLATES["text"], specials=["<pad>", "<s>", "<unk>", "</s>"]
        ),
    }
    common = {
        name: {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
            **{f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")},
        }
        for name, tokenizer in tokenizers.items()
    }
    code = Qwen2Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        initializer_range=0.4, **common["code"],
    )  # fmt: skip
    text = Gemma3TextConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        head_dim=12, sliding_window=8, query_pre_attn_scalar=12, initializer_range=0.4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], **common["text"],
    )  # fmt: skip
    root = tmp_path_factory.mktemp("tongues")
    torch.manual_seed(7)
    for name, model in (("code", Qwen2ForCausalLM(code)), ("text", Gemma3ForCausalLM(text))):
        model.eval().save_pretrained(root / name)
        tokenizers[name].save_pretrained(root / name)
    return {name: root / name for name in tokenizers}
