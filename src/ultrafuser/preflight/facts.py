"""What one specialist is, from its configuration, its tokenizer and the headers of its weights."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ultrafuser import gguf
from ultrafuser.adapter_files import AdapterFacts
from ultrafuser.preflight.licences import Licence, read_licence
from ultrafuser.preflight.sources import Located, SourceError, told
from ultrafuser.preflight.weights import check_weights, count, count_bytes, count_linear
from ultrafuser.safetensors_files import main_dtype


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
    base: str = ""  # name of the model, of an adapter's base
    place: Path = Path()  # where its weights lie, see `Located.place`
    adapter: AdapterFacts | None = None  # then the sizes above are its base's
    linear: int | None = None  # elements of its weight matrices but embedding and head, which can be quantised
    cache_width: int = 0  # elements of keys and values that a token leaves behind

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
            "base": self.base if self.adapter is not None else None,
            "adapter": None if self.adapter is None else self._adapter_json(self.adapter),
        }

    def _adapter_json(self, adapter: AdapterFacts) -> dict[str, Any]:
        scalings = sorted({round(target.scaling, 6) for target in adapter.targets.values()})
        return {
            "rank": adapter.rank,
            "scalings": scalings,
            "layers": len(adapter.targets),
            "kinds": sorted({name.rpartition(".")[2] for name in adapter.targets}),
            "parameters": adapter.parameters,
            "base_sha256": adapter.base_sha256,
        }


def read_facts(name: str, located: Located) -> Facts:
    """The facts of a specialist. Raises SourceError for what is not a usable causal language model."""
    small = _read_folder(located.folder) if located.file is None else _read_gguf(located.file)
    if located.adapter is not None:
        small = _with_adapter(small, located.adapter)
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
        parameters=count(located.tensors) if located.tensors else None,
        weight_bytes=count_bytes(located.tensors) if located.tensors else None,
        dtype=main_dtype(located.tensors.values()) if located.tensors else small.dtype,
        config_eos=small.config_eos,
        soft_cap=getattr(config, "final_logit_softcapping", None),
        licence=small.licence,
        tokenizer=small.tokenizer,
        commit=located.commit,
        base=located.shown,
        place=located.place,
        adapter=located.adapter,
        linear=count_linear(located.tensors) if located.tensors else None,
        cache_width=_cache_width(config),
    )
    if located.tensors:
        where = "config.json" if located.file is None else located.file.name
        check_weights(located.tensors, where, facts.vocab_rows, facts.hidden_size, facts.layers)
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


def _with_adapter(base: _Small, adapter: AdapterFacts) -> _Small:
    """The base with what the adapter's folder brings of its own: tokenizer, template, licence."""
    tokenizer = base.tokenizer
    if has_tokenizer(adapter.folder):
        tokenizer = open_tokenizer(adapter.folder)
        if not tokenizer.chat_template:
            tokenizer.chat_template = base.tokenizer.chat_template
    own = read_licence(adapter.folder)
    named = [one for one in own.ids if one != "other" or not base.licence.ids]  # other: whatever its base says
    ids = tuple(dict.fromkeys([*named, *base.licence.ids]))
    origin = own.origin if own.ids else f"its base's {base.licence.origin}"
    return replace(base, tokenizer=tokenizer, licence=Licence(ids, origin))


def full_config(located: Located) -> Any:
    """The whole configuration of a model."""
    from transformers import AutoConfig

    if located.file is not None:
        return gguf.open_config(located.file, "source", gguf.known_copy(located.file))
    return AutoConfig.from_pretrained(located.folder, local_files_only=True, trust_remote_code=False)


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


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of any kind."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
    return any((folder / name).is_file() for name in names)


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. Raises SourceError where there is none."""
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        raise SourceError(
            f"{folder} has no tokenizer", "copy tokenizer.json and tokenizer_config.json of the model into it"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raise plain Exception for a corrupt file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(f"the tokenizer in {folder} cannot be read: {reason}", "copy or download it again") from None


def _cache_width(config: Any) -> int:
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or int(config.hidden_size) // heads)
    return 2 * shared * width * int(config.num_hidden_layers)


def _config_eos(folder: Path, raw: dict[str, Any]) -> tuple[int, ...]:
    """Tokens that end a generation by the model's own settings; generation_config.json comes first."""
    value = raw.get("eos_token_id")
    if (folder / "generation_config.json").is_file():
        value = _json(folder / "generation_config.json").get("eos_token_id", value)
    values = value if isinstance(value, list) else [value]
    return tuple(entry for entry in values if isinstance(entry, int))
