"""What one specialist is, from its configuration, its tokenizer and the headers of its weights."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ultrafuser import gguf
from ultrafuser.preflight.licences import Licence, read_licence
from ultrafuser.preflight.sources import Located, SourceError, told
from ultrafuser.safetensors_files import BYTES, Tensor, main_dtype


@dataclass(frozen=True)
class Facts:
    """One specialist as far as its small files tell. Sizes in elements, bytes and tokens."""

    name: str
    architecture: str
    model_type: str
    hidden_size: int
    layers: int
    inner_size: int
    context: int | None
    vocab_rows: int
    tied: bool
    parameters: int | None  # tied weights counted once; None when the headers are not known
    weight_bytes: int | None  # as stored
    dtype: str
    config_eos: tuple[int, ...]
    soft_cap: float | None
    licence: Licence
    tokenizer: Any  # a PreTrainedTokenizerBase
    commit: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "architecture": self.architecture,
            "model_type": self.model_type,
            "hidden_size": self.hidden_size,
            "layers": self.layers,
            "context": self.context,
            "vocabulary": len(self.tokenizer),
            "vocabulary_rows": self.vocab_rows,
            "tied": self.tied,
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "dtype": self.dtype,
            "eos_token": self.tokenizer.eos_token,
            "eos_token_id": self.tokenizer.eos_token_id,
            "licence": list(self.licence.ids),
            "commit": self.commit,
        }


def read_facts(name: str, located: Located) -> Facts:
    """The facts of a specialist. Raises SourceError for what is not a usable causal language model."""
    small = _read_folder(located.folder) if located.file is None else _read_gguf(located.file)
    config = small.config
    rows = int(config.vocab_size)
    facts = Facts(
        name=name,
        architecture=small.architecture,
        model_type=small.model_type,
        hidden_size=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        inner_size=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        context=getattr(config, "max_position_embeddings", None),
        vocab_rows=rows,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        parameters=_parameters(located.tensors) if located.tensors else None,
        weight_bytes=_bytes(located.tensors) if located.tensors else None,
        dtype=main_dtype(located.tensors.values()) if located.tensors else small.dtype,
        config_eos=small.config_eos,
        soft_cap=getattr(config, "final_logit_softcapping", None),
        licence=small.licence,
        tokenizer=small.tokenizer,
        commit=located.commit,
    )
    if located.tensors:
        _check_weights(facts, located.tensors, "config.json" if located.file is None else located.file.name)
    return facts


@dataclass(frozen=True)
class _Small:
    """What the small files of a folder say, or the metadata of a GGUF file."""

    architecture: str
    model_type: str
    config: Any
    dtype: str
    config_eos: tuple[int, ...]
    licence: Licence
    tokenizer: Any


def _read_folder(folder: Path) -> _Small:
    raw = _json(folder / "config.json")
    architecture, model_type = check_causal(raw)
    return _Small(
        architecture,
        model_type,
        _text_config(folder, model_type),
        str(raw.get("dtype") or raw.get("torch_dtype")),
        _config_eos(folder, raw),
        read_licence(folder),
        open_tokenizer(folder),
    )


def _read_gguf(file: Path) -> _Small:
    """The same of a GGUF file: out of its converted copy where one is known, since the file itself takes seconds."""
    copy = gguf.known_copy(file)
    try:
        config = gguf.open_config(file, "source", copy)
        architecture, model_type = check_causal({**config.to_dict(), "architectures": config.architectures})
        tokenizer = gguf.open_tokenizer(file, "source", copy)
        ends = gguf.end_ids(file, config.eos_token_id, tokenizer, "source")
    except SourceError:
        raise
    except ValueError as error:
        raise told(error) from None
    found = gguf.licence(file)
    licence = Licence((found.lower(),) if found else (), file.name if found else f"{file.name}, which names none")
    return _Small(
        architecture, model_type, config.get_text_config(decoder=True), "float32", tuple(ends), licence, tokenizer
    )


def check_causal(raw: dict[str, Any]) -> tuple[str, str]:
    """Architecture and model type of a configuration. Raises SourceError unless it is a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    model_type = raw.get("model_type")
    architectures = raw.get("architectures") or []
    architecture = architectures[0] if architectures else None
    if model_type == "ultrafuser":
        raise SourceError("is itself a fused model", "name its specialists one by one, or use `ultrafuser add`")
    if raw.get("auto_map") and model_type not in KNOWN:
        raise SourceError(
            f"needs code of its own ({model_type}), which is not run", "use a model that Transformers knows"
        )
    if not model_type:
        raise SourceError("config.json has no model_type", "give the folder of a Transformers model")
    if model_type not in KNOWN:
        raise SourceError(
            f"is not a causal language model: Transformers has none of type {model_type!r}"
            + (f" ({architecture})" if architecture else ""),
            "use a decoder model such as Llama, Qwen or Gemma",
        )
    if raw.get("is_encoder_decoder"):
        raise SourceError(f"is an encoder-decoder ({architecture or model_type})", "use a decoder-only model")
    classes: set[str] = set()
    for entry in KNOWN.values():
        classes.update([entry] if isinstance(entry, str) else entry)
    if architecture is not None and architecture not in classes:
        raise SourceError(
            f"is not a causal language model: its architecture is {architecture}",
            f"use a checkpoint with a language model head, for example of class {_first(KNOWN[model_type])}",
        )
    return architecture or _first(KNOWN[model_type]), str(model_type)


def _first(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry[0])


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} cannot be read: {error}", "copy or download the model again") from None
    if not isinstance(data, dict):
        raise SourceError(f"{file} is not a JSON object", "copy or download the model again")
    return data


def _text_config(folder: Path, model_type: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        text = config.get_text_config(decoder=True)
        for needed in ("vocab_size", "hidden_size", "num_hidden_layers"):
            int(getattr(text, needed))
    except Exception as error:  # whatever a broken configuration raises, the user needs the file and the reason
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"{folder / 'config.json'} is not a {model_type} configuration: {reason}", "mend it"
        ) from None
    return text


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. Raises SourceError where there is none."""
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
    if not any((folder / name).is_file() for name in names):
        raise SourceError(
            f"{folder} has no tokenizer", "copy tokenizer.json and tokenizer_config.json of the model into it"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raise plain Exception for a corrupt file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(f"the tokenizer in {folder} cannot be read: {reason}", "copy or download it again") from None


def _parameters(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.size for tensor in tensors.values())


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.size * BYTES.get(tensor.dtype, 1) for tensor in tensors.values())


def _config_eos(folder: Path, raw: dict[str, Any]) -> tuple[int, ...]:
    """Tokens that end a generation by the model's own settings; generation_config.json comes first."""
    value = raw.get("eos_token_id")
    if (folder / "generation_config.json").is_file():
        value = _json(folder / "generation_config.json").get("eos_token_id", value)
    values = value if isinstance(value, list) else [value]
    return tuple(entry for entry in values if isinstance(entry, int))


def _check_weights(facts: Facts, tensors: dict[str, Tensor], where: str) -> None:
    """Weights against the configuration in `where`: the embedding has the right rows, and no layer is missing."""
    tables = [t for name, t in tensors.items() if len(t.shape) == 2 and ("embed" in name or "wte" in name)]
    wide = [t for t in tables if t.shape[1] == facts.hidden_size]
    if wide and not any(table.shape[0] == facts.vocab_rows for table in wide):
        raise SourceError(
            f"{where} says {facts.vocab_rows} rows of vocabulary, the weights have {wide[0].shape[0]}",
            f"set vocab_size in {where} to what the weights have",
        )
    found = _layers_found(tensors)
    missing = [i for i in range(facts.layers) if i not in found]
    if found and missing:
        raise SourceError(
            f"{where} says {facts.layers} layers, the weights of layer {missing[0]} are missing",
            "copy or download the model again",
        )


def _layers_found(tensors: dict[str, Tensor]) -> set[int]:
    """Numbers of the layers that have weights, for names like model.layers.3.mlp... or transformer.h.3..."""
    found = set()
    for name in tensors:
        parts = name.split(".")
        for before, part in pairwise(parts):
            if before in ("layers", "h", "blocks") and part.isdigit():
                found.add(int(part))
                break
    return found
