"""Shared fixtures: a tiny byte-level tokenizer and tiny random Llama folders, made once per session."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run; ULTRAFUSER_EXPLORE=1 draws new ones, to look for what nobody has thought of.
settings.register_profile("steady", derandomize=True)
if not os.environ.get("ULTRAFUSER_EXPLORE"):
    settings.load_profile("steady")

sys.path.insert(0, str(Path(__file__).parent))  # for gguf_writer, under pytest's importlib mode

CORPUS = [
    "the quick brown fox jumps over the lazy dog and then it sleeps",
    "def add(a, b):\n    return a + b\n",
    "What is 12 plus 30? The answer is 42.",
    "User: write a poem\nAssistant: roses are red",
]
TEMPLATES = {
    "text": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
        "{% else %}{{ '\n' if not loop.first }}User: {{ m.content }}\nAssistant:{% endif %}{% endfor %}"
    ),
    "code": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
        "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    ),
    "math": (
        "{{ bos_token }}Below is a problem. Work it out step by step.\n{% for m in messages %}"
        "{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}\n### Problem:\n{{ m.content }}\n\n"
        "### Answer:{% endif %}{% endfor %}"
    ),
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors run faster on one thread, and tests run side by side."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted copies of GGUF files go to a folder of this run, not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULTRAFUSER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a byte-level BPE tokenizer of about 300 tokens; <s> is 0, </s> is 1, <pad> is 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tokenizer_folder: Path):
    """The tokenizer of `tokenizer_folder`, without a chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder)


@pytest.fixture(scope="session")
def make_llama(tiny_tokenizer) -> Callable:
    """`make_llama(seed, *, tie=False, hidden=16, layers=2, vocab=None, dtype=None, **config) -> LlamaForCausalLM`.

    Random weights, wide enough that specialists disagree and greedy paths are not all alike.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed, *, tie=False, hidden=16, layers=2, vocab=None, dtype=None, **config):
        fields = {
            "vocab_size": vocab or len(tiny_tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": tie,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "initializer_range": 0.35,
        }
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(fields | config))).eval()
        return model.to(dtype) if dtype is not None else model

    return make


@pytest.fixture(scope="session")
def make_specialist_folder(make_llama, tiny_tokenizer) -> Callable:
    """`make_specialist_folder(folder, seed, *, template=None, **as make_llama) -> folder`, with its tokenizer."""

    def make(folder: Path, seed: int, *, template: str | None = None, **options) -> Path:
        import copy

        make_llama(seed, **options).save_pretrained(folder)
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def specialist_folders(make_specialist_folder, tmp_path_factory) -> dict[str, Path]:
    """Three specialists text, code, math (the code one with tied embeddings), each with its own template. Read only."""
    root = tmp_path_factory.mktemp("specialists")
    return {
        name: make_specialist_folder(root / name, seed, template=TEMPLATES[name], tie=name == "code")
        for seed, name in enumerate(TEMPLATES, start=1)
    }


@pytest.fixture(scope="session")
def make_adapter() -> Callable:
    """`make_adapter(folder, base, seed=0, *, record=True, **LoraConfig's fields) -> folder`, as PEFT saves it.

    Both its matrices are random; with `record` it names the hash of its base. Its tokenizer is the base's.
    """
    import json

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ultrafuser.adapter_files import NOTE
    from ultrafuser.hashing import content_hash

    def make(folder: Path, base: Path, seed: int = 0, *, record: bool = True, **options) -> Path:
        fields = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        torch.manual_seed(seed)
        wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(fields | options)))
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
        wrapped.save_pretrained(folder)
        if record:
            (folder / NOTE).write_text(json.dumps({"base_sha256": content_hash(base)}))
        return folder

    return make


@pytest.fixture(scope="session")
def chat_templates() -> dict[str, str]:
    """Jinja sources of the three specialists' templates, of different length."""
    return dict(TEMPLATES)


@pytest.fixture
def fused_model(specialist_folders, chat_templates):
    """A fresh fused model of the three specialists, gate untrained but decided enough to tell the specialists apart."""
    import torch

    from ultrafuser.modeling import UltraFuserForCausalLM

    model = UltraFuserForCausalLM.from_specialists(specialist_folders, templates=chat_templates, seed=3)
    with torch.no_grad():
        model.gate.outer.weight.mul_(20)
    return model


@pytest.fixture(scope="session")
def make_gguf(make_llama, tiny_tokenizer) -> Callable:
    """`make_gguf(path, seed=4, tie=False, **as write_gguf) -> path`: a tiny Llama as one GGUF file."""
    pytest.importorskip("gguf")
    from gguf_writer import write_gguf

    return lambda path, seed=4, tie=False, **options: write_gguf(
        path, make_llama(seed, tie=tie), tiny_tokenizer, **options
    )


@pytest.fixture(scope="session")
def tiny_gguf(make_gguf, tmp_path_factory) -> Path:
    """A tiny Llama with the chat template `code` as one GGUF file. Read only."""
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny-code.gguf", template=TEMPLATES["code"])


@pytest.fixture(scope="session")
def crossing_specialist() -> Callable:
    """`crossing_specialist(folder, tokenizer, hidden) -> folder`: a tiny Llama with that tokenizer, head padded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(folder: Path, tokenizer, hidden: int) -> Path:
        torch.manual_seed(hidden)
        config = LlamaConfig(
            vocab_size=len(tokenizer) + 3, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
            pad_token_id=2, initializer_range=0.3,
        )  # fmt: skip
        LlamaForCausalLM(config).eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def crossing_folders(crossing_specialist, tmp_path_factory) -> dict[str, Path]:
    """Specialists a (byte-level tokenizer, 32 wide) and b (byte fallback, 16 wide), templates their own. Read only."""
    from token_makers import byte_level, sentence_piece

    root = tmp_path_factory.mktemp("crossing")
    crossing_specialist(root / "a", byte_level(template=TEMPLATES["text"]), 32)
    crossing_specialist(root / "b", sentence_piece(template=TEMPLATES["math"]), 16)
    return {"a": root / "a", "b": root / "b"}
