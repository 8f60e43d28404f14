"""Configuration, tokenizer and end tokens of a GGUF file, opened by Transformers without the weights."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from ultrafuser.gguf.header import check_file

# Tokens that end an answer whatever the file calls its end-of-sequence token, as llama.cpp takes them; a chat model
# ends its turns with one of these and a text with another, and a GGUF file has a place for one of the two only.
END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>",
    "<EOT>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
BROKEN = (ValueError, KeyError, NotImplementedError, OSError, TypeError)  # what Transformers raises


def open_config(path: Path, field: str, copy: Path | None = None) -> Any:
    """The model's configuration, from its converted `copy` where there is one (the file itself takes seconds).

    Raises ValueError where Transformers does not know the file's architecture.
    """
    from transformers import AutoConfig

    kind = check_file(path, field).get("general.architecture")
    if copy is not None:
        return AutoConfig.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
    try:
        return deepcopy(_config(path, *_state(path)))
    except BROKEN as error:
        raise ValueError(
            f"{field}: {str(path)!r} holds architecture {kind!r}, which this version of Transformers cannot open from "
            f"a GGUF file ({first_line(error)}); use its safetensors form"
        ) from error


@lru_cache(maxsize=4)  # seconds of work, asked for by several parts
def _config(path: Path, changed: int, size: int) -> Any:
    from transformers import AutoConfig

    with alone(path) as folder:
        return AutoConfig.from_pretrained(folder, gguf_file=path.name, trust_remote_code=False)


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def open_tokenizer(path: Path, field: str, copy: Path | None = None) -> Any:
    """The tokenizer that the file carries, with its chat template, from its converted `copy` where there is one.

    Raises ValueError where it carries none.
    """
    if "tokenizer.ggml.tokens" not in check_file(path, field):
        raise ValueError(f"{field}: {str(path)!r} carries no tokenizer; use a file that does, or the safetensors form")
    try:
        return _tokenizer(path, *_state(path), copy)
    except BROKEN as error:
        raise ValueError(f"{field}: the tokenizer in {str(path)!r} cannot be opened ({first_line(error)})") from error


@lru_cache(maxsize=4)
def _tokenizer(path: Path, changed: int, size: int, copy: Path | None) -> Any:
    from transformers import AutoTokenizer

    if copy is not None:
        tokenizer = AutoTokenizer.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
    else:
        with alone(path) as folder:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, trust_remote_code=False)
        _forget_foreign_tokens(tokenizer, check_file(path, "source")["tokenizer.ggml.tokens"])
    tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = path.name
    tokenizer.init_kwargs.pop("gguf_file", None)
    return tokenizer


def _forget_foreign_tokens(tokenizer: Any, count: int) -> None:
    """Take away special tokens beyond the file's `count`: Transformers gives a byte-level one an <|endoftext|> that the
    model may have no row for."""
    from tokenizers import Tokenizer

    if len(tokenizer) <= count:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < count]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def end_ids(path: Path, own: int | list[int] | None, tokenizer: Any, field: str) -> list[int]:
    """Ids that end an answer: the configuration's `own`, the file's, then those of END_TOKENS that it marks special."""
    metadata = check_file(path, field)
    named = [
        *(own if isinstance(own, list) else [own]),
        *(metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")),
    ]
    special = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    return list(dict.fromkeys(i for i in [*named, *map(special.get, END_TOKENS)] if isinstance(i, int)))


@contextmanager
def alone(path: Path) -> Iterator[Path]:
    """A folder that holds the file (as a link) and nothing else: what lies beside it must not be taken for its own."""
    with tempfile.TemporaryDirectory(prefix="ultrafuser-") as folder:
        try:
            (Path(folder) / path.name).symlink_to(path.resolve())
        except OSError:  # a system that does not let us link
            yield path.parent
            return
        yield Path(folder)


def first_line(error: Exception) -> str:
    """The first line of an error's words, or its kind where it has none."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
