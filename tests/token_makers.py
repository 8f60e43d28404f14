"""Tiny tokenizers of every family, trained on the spot: byte-level, SentencePiece-like with byte fallback, Unigram."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "the quick brown fox jumps over the lazy dog and then it sleeps in the sun",
    "def add(a, b):\n    return a + b\n\n\nclass Dog:\n\tdef bark(self):\n\t\treturn 'wuff'\n",
    "What is 12 plus 30? The answer is 42. Then 1234 - 234 = 1000, and so on.",
    "User: write a poem\nAssistant: roses are red, violets are blue",
    "naïve café, Übermut, 数学 数学, \U0001f600\U0001f600",
)
SPECIALS = ["<s>", "</s>", "<pad>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def wrapped(inner: Tokenizer, template: str | None = None) -> PreTrainedTokenizerFast:
    """The Transformers tokenizer around `inner`; its special tokens are those of SPECIALS."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)
    tokenizer.chat_template = template
    return tokenizer


def byte_level(
    size: int = 320,
    corpus: Sequence[str] = CORPUS,
    *,
    prefix: bool = False,
    template: str | None = None,
    specials: Sequence[str] = SPECIALS,
) -> Any:
    """Like GPT-2, Qwen and Llama 3; `prefix` puts a space before the first word; `specials` in the order of ids."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    return wrapped(inner, template)


def sentence_piece(
    size: int = 200,
    corpus: Sequence[str] = CORPUS,
    *,
    prefix: bool = False,
    template: str | None = None,
    specials: Sequence[str] = SPECIALS,
) -> Any:
    """BPE over characters with byte fallback: like Gemma, or with `prefix` like Llama 2 and Mistral."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False)
    trained.train_from_iterator(corpus, trainer)
    model = json.loads(trained.to_str())["model"]
    ordered = sorted(model["vocab"], key=model["vocab"].get)
    pieces = [*specials, *BYTES, *(piece for piece in ordered if piece not in SPECIALS)]
    merges = [tuple(pair) for pair in model["merges"]]
    inner = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    _sentence_piece_parts(inner, prefix, specials.index("<s>"))
    return wrapped(inner, template)


def unigram(
    size: int = 160, corpus: Sequence[str] = CORPUS, *, prefix: bool = False, template: str | None = None
) -> Any:
    """Unigram with byte fallback, like Llama's predecessors in SentencePiece."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    trained.train_from_iterator(corpus, trainer)
    learnt = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["vocab"] if pair[0] not in SPECIALS]
    pieces = [(p, 0.0) for p in SPECIALS] + [(p, -20.0) for p in BYTES] + learnt
    inner = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never", split=True)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefix else [])
    )
    inner.add_special_tokens(SPECIALS)
    return wrapped(inner, template)


def _sentence_piece_parts(inner: Tokenizer, prefix: bool, begin: int) -> None:
    replace = normalizers.Replace(" ", "\u2581")
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prefix else replace
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefix else [])
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", begin)])
    inner.add_special_tokens(SPECIALS)


MAKERS = {
    "byte-level": lambda: byte_level(),
    "byte-level with prefix space": lambda: byte_level(300, prefix=True),
    "gemma-like": lambda: sentence_piece(),
    "llama-2-like": lambda: sentence_piece(prefix=True),
    "unigram": lambda: unigram(),
    "unigram with prefix": lambda: unigram(prefix=True),
}
