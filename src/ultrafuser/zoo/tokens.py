"""The zoo's tokenizer, and its texts as token arrays on disk.

Prompts and responses are tokenised on their own and joined: a response has the same tokens under every template.
Shapes: T tokens in a row; a row of the base's data is uint16 (T,).
"""

import itertools
import json
import random
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ultrafuser.zoo import BASE
from ultrafuser.zoo.files import finished_folder
from ultrafuser.zoo.prepare import read_pieces
from ultrafuser.zoo.sources import DOMAINS, Piece

EOS, PAD = "<|end|>", "<|pad|>"
# Words with one leading space, single digits, runs of punctuation or white space: the pattern of Qwen 2's tokenizer.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The base was trained on plain text: a conversation is its turns, one per paragraph.
BASE_TEMPLATE = (
    "{%- for message in messages -%}{{- message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}{{- '\\n' -}}{%- endfor -%}"
)


def template(name: str) -> str:
    """Chat template of a zoo model: the base's plain one, or the file of its domain."""
    if name == BASE:
        return BASE_TEMPLATE
    return (files("ultrafuser") / "templates" / f"zoo-{name}.jinja").read_text(encoding="utf-8")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with single digits; the end and padding tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def wrap(tokenizer: Tokenizer, name: str, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer as a Transformers tokenizer with the chat template of one zoo model."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = template(name)
    return wrapped


def tokenizer_texts(prepared: Path, characters: int) -> Iterator[str]:
    """About `characters` of text from each domain: half raw, half instructions."""
    for domain in DOMAINS:
        for split in ("raw-train", "train"):
            pieces = read_pieces(prepared / f"{domain}-{split}.jsonl")
            random.Random(f"tokenizer:{domain}").shuffle(pieces)
            total = 0
            for text in itertools.chain.from_iterable(piece.texts() for piece in pieces):
                if total >= characters // 2:
                    break
                total += len(text)
                yield text


def make_tokenizer(prepared: Path, out: Path, vocabulary: int, characters: int) -> None:
    """Train the tokenizer on the prepared training texts and write `tokenizer.json` into the folder `out`."""
    with finished_folder(out) as folder:
        train_tokenizer(tokenizer_texts(prepared, characters), vocabulary).save(str(folder / "tokenizer.json"))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer written by make_tokenizer."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def raw_rows(tokenizer: Tokenizer, pieces: list[Piece], length: int, budget: int) -> np.ndarray:
    """Texts joined by end tokens and cut into rows, uint16 (rows, length); repeated up to `budget` tokens."""
    eos = tokenizer.token_to_id(EOS)
    parts: list[np.ndarray] = []
    total = 0
    for start in range(0, len(pieces), 64):
        if total >= budget:
            break
        for encoding in tokenizer.encode_batch([piece.text for piece in pieces[start : start + 64]]):
            parts.append(np.array([*encoding.ids, eos], dtype=np.uint16))
            total += len(parts[-1])
    stream = np.concatenate(parts)
    rows = np.resize(stream, max(budget, length))
    return rows[: len(rows) // length * length].reshape(-1, length)


def example_ids(wrapped: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of the prompt under the tokenizer's template, and of the response with its end token."""
    prompt = wrapped.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    prompt_ids = wrapped(prompt, add_special_tokens=False)["input_ids"]
    response_ids = wrapped(messages[-1]["content"], add_special_tokens=False)["input_ids"]
    return prompt_ids, [*response_ids, wrapped.eos_token_id]


def example_arrays(wrapped: PreTrainedTokenizerFast, pieces: list[Piece], max_length: int) -> dict[str, np.ndarray]:
    """Examples as flat arrays: `ids` uint16, `starts` int64 (examples + 1,), `responses` int64; no longer ones."""
    ids: list[int] = []
    starts, responses = [0], []
    for piece in pieces:
        prompt_ids, response_ids = example_ids(wrapped, piece.messages)
        if len(prompt_ids) + len(response_ids) > max_length:
            continue
        ids += prompt_ids + response_ids
        starts.append(len(ids))
        responses.append(len(response_ids))
    return {
        "ids": np.array(ids, dtype=np.uint16),
        "starts": np.array(starts, dtype=np.int64),
        "responses": np.array(responses, dtype=np.int64),
    }


def tokenise_raw(
    prepared: Path, tokenizer: Path, out: Path, length: int, budget: int, validation: int
) -> dict[str, Any]:
    """Write `train.npy` and `validation.npy`, rows of `length` tokens, each domain with an equal share."""
    loaded = load_tokenizer(tokenizer)
    report: dict[str, Any] = {"row_tokens": length, "tokens": {}}
    with finished_folder(out) as folder:
        for split, tokens in (("train", budget), ("validation", validation)):
            rows = []
            for domain in DOMAINS:
                pieces = read_pieces(prepared / f"{domain}-raw-{split}.jsonl")
                rows.append(raw_rows(loaded, pieces, length, tokens // len(DOMAINS)))
            report["tokens"][split] = {domain: int(part.size) for domain, part in zip(DOMAINS, rows, strict=True)}
            np.save(folder / f"{split}.npy", np.concatenate(rows))
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def tokenise_domain(prepared: Path, tokenizer: Path, out: Path, domain: str, max_length: int) -> dict[str, Any]:
    """Write `train.npz` and `validation.npz` of a domain's instructions under its own template."""
    wrapped = wrap(load_tokenizer(tokenizer), domain, max_length=10**9)  # longer examples are dropped, not warned of
    report: dict[str, Any] = {}
    with finished_folder(out) as folder:
        for split in ("train", "validation"):
            arrays: dict[str, Any] = example_arrays(
                wrapped, read_pieces(prepared / f"{domain}-{split}.jsonl"), max_length
            )
            np.savez(folder / f"{split}.npz", **arrays)
            report[split] = {
                "examples": len(arrays["responses"]),
                "tokens": len(arrays["ids"]),
                "response_tokens": int(arrays["responses"].sum()),
            }
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report
