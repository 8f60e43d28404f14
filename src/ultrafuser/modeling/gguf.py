"""Opening a GGUF file: a whole model in one file, its quantised weights unpacked, with tokenizer and chat template."""

import importlib.util
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

__all__ = ["SUFFIX", "check_file", "is_gguf", "licence", "open_config", "open_tokenizer", "open_weights"]

SUFFIX = ".gguf"

# Tokens that end an answer whatever the file calls its end-of-sequence token, as llama.cpp takes them; a chat model
# ends its turns with one of these and a text with another, and a GGUF file has a place for one of the two only.
END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>",
    "<EOT>", "<｜end▁of▁sentence｜>",
)  # fmt: skip

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # bytes, unless general.alignment says otherwise


def is_gguf(source: str | os.PathLike) -> bool:
    """Whether `source` is written like a GGUF file: a path that ends in .gguf."""
    return os.fspath(source).endswith(SUFFIX)


def check_file(path: Path, field: str) -> dict[str, Any]:
    """The file's metadata, of arrays only how long they are, read in a moment.

    Raises ValueError where it is no GGUF file or is cut off, and where the package that unpacks it is missing.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"{field}: {str(path)!r} is a GGUF file, which needs the package gguf; pip install 'ultrafuser[gguf]'"
        )
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{field}: {str(path)!r} is no GGUF file (it does not start with GGUF)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                metadata, needed = _Reader(view).header()
    except (struct.error, UnicodeDecodeError, IndexError, KeyError) as error:
        raise ValueError(f"{field}: {str(path)!r} is corrupt or cut off in its header; download it again") from error
    size = path.stat().st_size
    if size < needed:
        raise ValueError(f"{field}: {str(path)!r} is cut off ({size} bytes of {needed}); download it again")
    return metadata


class _Reader:
    """Walks the header of a GGUF file (version 2 or 3, little-endian), see docs/gguf.md of ggml."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.at = 4

    def header(self) -> tuple[dict[str, Any], int]:
        """The metadata, and how many bytes the file must have for all its tensors to be there."""
        from gguf import GGML_QUANT_SIZES

        self._take("<I")  # version
        tensors, keys = self._take("<Q"), self._take("<Q")
        metadata = {}
        for _ in range(keys):
            key = self._string()
            metadata[key] = self._value(self._take("<I"))
        end = 0
        for _ in range(tensors):
            self._string()
            elements = 1
            for _ in range(self._take("<I")):
                elements *= self._take("<Q")
            kind, offset = self._take("<I"), self._take("<Q")
            per_block, block_bytes = GGML_QUANT_SIZES.get(kind, (1, 0))
            end = max(end, offset + elements // per_block * block_bytes)
        alignment = int(metadata.get("general.alignment") or _ALIGNMENT)
        return metadata, -(-self.at // alignment) * alignment + end

    def _take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.view, self.at)
        self.at += struct.calcsize(form)
        return value

    def _string(self) -> str:
        length = self._take("<Q")
        raw = self.view[self.at : self.at + length]
        if len(raw) < length:
            raise IndexError("the file ends inside a text")
        self.at += length
        return raw.decode("utf-8")

    def _value(self, kind: int) -> Any:
        """One value; an array is stepped over and gives its length."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(_NUMBERS[kind])
        element, count = self._take("<I"), self._take("<Q")
        if element in _NUMBERS:
            self.at += count * struct.calcsize(_NUMBERS[element])
            return count
        for _ in range(count):
            if element == _STRING:
                length = self._take("<Q")
                self.at += length
            else:
                self._value(element)
        return count


def open_config(path: Path, field: str) -> PreTrainedConfig:
    """The model's configuration. Raises ValueError where Transformers does not know the file's architecture."""
    kind = check_file(path, field).get("general.architecture")
    try:
        with _alone(path) as folder:
            config = AutoConfig.from_pretrained(folder, gguf_file=path.name, trust_remote_code=False)
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise ValueError(
            f"{field}: {str(path)!r} holds architecture {kind!r}, which this version of Transformers cannot open from "
            f"a GGUF file ({_first_line(error)}); use its safetensors form"
        ) from error
    return config


def open_tokenizer(path: Path, field: str) -> Any:
    """The tokenizer that the file carries, with its chat template. Raises ValueError where it carries none."""
    stat = path.stat()
    return _tokenizer(path, stat.st_mtime_ns, stat.st_size, field)


@lru_cache(maxsize=4)  # seconds of work, asked for by several parts
def _tokenizer(path: Path, changed: int, size: int, field: str) -> Any:
    try:
        with _alone(path) as folder:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, trust_remote_code=False)
    except (ValueError, KeyError, NotImplementedError, OSError, TypeError) as error:
        raise ValueError(f"{field}: the tokenizer in {str(path)!r} cannot be opened ({_first_line(error)})") from error
    _forget_foreign_tokens(tokenizer, check_file(path, field)["tokenizer.ggml.tokens"])
    tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = path.name
    tokenizer.init_kwargs.pop("gguf_file", None)
    return tokenizer


def _forget_foreign_tokens(tokenizer: Any, count: int) -> None:
    """Take away special tokens beyond the file's `count`: Transformers gives a byte-level one an <|endoftext|> that the
    model may have no row for."""
    if len(tokenizer) <= count:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < count]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def open_weights(
    path: Path, config: PreTrainedConfig, dtype: torch.dtype | str | None, field: str, **options: Any
) -> PreTrainedModel:
    """The model as an ordinary one of its class: weights unpacked to `dtype`, float32 where none is named.

    Raises ValueError where they do not load or some are missing.
    """
    if dtype in (None, "auto"):
        dtype = torch.float32
    packing = getattr(transformers, "GgufConfig", None)  # of versions that can keep the weights packed
    if packing is not None:
        options["quantization_config"] = packing(dequantize=True)
    try:
        with _alone(path) as folder:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=path.name, config=config, dtype=dtype, output_loading_info=True, **options
            )
    except (RuntimeError, ValueError, KeyError, NotImplementedError, OSError) as error:
        raise ValueError(f"{field}: the weights in {str(path)!r} do not load: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{field}: {str(path)!r} lacks {len(missing)} weights, first {missing[0]!r}; download it again"
        )
    _forget_packing(model)
    model.generation_config.eos_token_id = _end_ids(path, model.config, field)
    return model


def _forget_packing(model: PreTrainedModel) -> None:
    """Take away what marks the model as quantised: its weights are ordinary ones, and can be trained and saved."""
    model.hf_quantizer = None
    for name in ("quantization_method", "is_quantized"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _end_ids(path: Path, config: PreTrainedConfig, field: str) -> list[int]:
    """Ids that end an answer: the file's end-of-sequence id, then those of END_TOKENS that it marks as special."""
    metadata = check_file(path, field)
    own = config.eos_token_id
    named = [
        *(own if isinstance(own, list) else [own]),
        *(metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")),
    ]
    special = {str(token): index for index, token in open_tokenizer(path, field).added_tokens_decoder.items()}
    return list(dict.fromkeys(i for i in [*named, *map(special.get, END_TOKENS)] if isinstance(i, int)))


def licence(path: Path) -> str | None:
    """The licence that the file names, or None."""
    found = check_file(path, "source").get("general.license")
    return str(found) if found else None


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """A folder that holds the file (as a link) and nothing else: what lies beside it must not be taken for its own."""
    with tempfile.TemporaryDirectory(prefix="ultrafuser-") as folder:
        try:
            (Path(folder) / path.name).symlink_to(path.resolve())
        except OSError:  # a system that does not let us link
            yield path.parent
            return
        yield Path(folder)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
