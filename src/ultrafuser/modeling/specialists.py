"""Opening a specialist: a folder, a GGUF file, or a Hub id with its revision; clear errors, a hash of its weights."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ultrafuser import gguf
from ultrafuser.hashing import content_hash, weight_files
from ultrafuser.modeling.gguf_cache import copy_or_model
from ultrafuser.modeling.placement import check_device
from ultrafuser.modeling.quantisation import check_quantisation, needed_format, quantise
from ultrafuser.modeling.registration import SPARSE

__all__ = [
    "Origin",
    "content_hash",
    "is_folder_like",
    "number_format",
    "open_specialist",
    "open_tokenizer",
    "resolve",
]

HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]


@dataclass(frozen=True)
class Origin:
    """Where a specialist lies: its folder on this machine, the GGUF `file` in it if it is one, its Hub id and commit
    if it came from there."""

    folder: Path
    hub_id: str | None = None
    revision: str | None = None
    file: str | None = None

    @property
    def path(self) -> Path:
        """What opens it: the GGUF file, or the folder."""
        return self.folder if self.file is None else self.folder / self.file


def is_folder_like(source: str | os.PathLike) -> bool:
    """Whether `source` means a place on this machine: it exists, is a Path or a .gguf file, or is written like a path
    rather than like `owner/name`.

    `runs/text` is taken for a folder where `runs` exists here, for a Hub id otherwise.
    """
    if not isinstance(source, str) or gguf.is_gguf(source):
        return True
    path = Path(os.path.expanduser(source))
    if path.exists() or source.startswith((".", "~", "/", os.sep)) or source.endswith(("/", os.sep)):
        return True
    parts = path.parts
    return len(parts) > 2 or "\\" in source or (len(parts) == 2 and Path(parts[0]).exists())


def resolve(source: str | os.PathLike, revision: str | None = None, field: str = "source") -> Origin:
    """Where `source` lies, fetched from the Hub where it is an id. Raises ValueError, for a local place at once."""
    if not is_folder_like(source):
        return _from_hub(str(source), revision, field)
    folder = Path(os.path.expanduser(os.fspath(source)))
    kind = "file" if gguf.is_gguf(source) else "folder"
    if not folder.exists():
        raise ValueError(f"{field}: {kind} {os.fspath(source)!r} does not exist; check the path")
    if not folder.is_dir() and kind == "folder":
        raise ValueError(
            f"{field}: {os.fspath(source)!r} is a file; give the folder that holds config.json and weights"
        )
    if revision is not None:
        raise ValueError(f"{field}: revision {revision!r} goes with a Hub id, but {os.fspath(source)!r} is a {kind}")
    path = folder.resolve()
    return Origin(path) if path.is_dir() else Origin(path.parent, file=path.name)


def _from_hub(name: str, revision: str | None, field: str) -> Origin:
    def fetch(patterns: list[str], **options: Any) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, etag_timeout=5, **options))

    try:
        folder = fetch(HUB_PATTERNS)
        if not weight_files(folder):
            folder = fetch([*HUB_PATTERNS, "*.bin"])
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{field}: {name!r} is not a folder here (looked in {os.getcwd()!r}) and could not be fetched as a Hub id "
            f"({reason}); check the spelling, or the connection if a Hub model is meant"
        ) from error
    return Origin(folder, name, folder.name)


def read_config(folder: Path, field: str) -> PreTrainedConfig:
    """The configuration in a folder or GGUF file. Raises ValueError where there is none, it is broken or unknown."""
    if folder.is_file():
        gguf.check_file(folder, field)
        return gguf.open_config(folder, field, gguf.find_copy(folder))
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{field}: folder {str(folder)!r} has no config.json; it does not hold a Transformers model")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{field}: {str(path)!r} is not valid JSON ({error}); download or save it again") from error
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        kind = raw.get("model_type", "missing")
        raise ValueError(
            f"{field}: model_type {kind!r} in {str(path)!r} cannot be opened by this version of Transformers without "
            "code from outside; use a built-in architecture"
        ) from error


def check_causal(config: PreTrainedConfig, field: str) -> None:
    """Raise ValueError where the configuration is not that of a causal language model."""
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    names = (known,) if isinstance(known, str) else tuple(known or ())
    architectures = list(config.architectures or names)
    # BertLMHeadModel and its kin look both ways unless told to be decoders.
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    causal = config.model_type == SPARSE or any(name in names for name in architectures)
    causal = causal and not encoder and not getattr(config, "is_encoder_decoder", False)
    found = architectures[0] if architectures else config.model_type
    if config.model_type == "ultrafuser":
        raise ValueError(f"{field}: is itself a fused model; fuse its specialists, or add to it with `ultrafuser add`")
    if not causal:
        raise ValueError(
            f"{field}: {found!r} is not a causal language model; a specialist must generate text left to right with "
            "its own output head, for example LlamaForCausalLM or Qwen2ForCausalLM"
        )


def check_weights(folder: Path, field: str) -> None:
    """Read every safetensors header. Raises ValueError for a missing or corrupt file, before anything is loaded."""
    files = weight_files(folder)
    if not files:
        raise ValueError(f"{field}: folder {str(folder)!r} holds no weights (*.safetensors or *.bin)")
    for path in files:
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{field}: {str(path)!r} is corrupt or cut off ({error}); download or save this specialist again"
            ) from error


def open_specialist(
    source: str | os.PathLike | Origin,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    *,
    field: str = "source",
    attn_implementation: str | None = None,
    config: PreTrainedConfig | None = None,
    quantisation: str | None = None,
) -> PreTrainedModel:
    """Load a causal LM from a folder, a GGUF file or the Hub, in its own number format unless `dtype` says otherwise.

    The weights go to `device` as they are read, and become integers there where `quantisation` says so (then `dtype` is
    that of the rest; see `quantise`). `config` replaces the configuration beside the weights. A GGUF file's
    quantised weights are unpacked, to float32 where no `dtype` is named, and kept so in the cache for the next time.
    Raises ValueError naming `field` where it does not exist, is not a causal LM, or has broken or incomplete weights.
    """
    dtype = number_format(needed_format({field: quantisation}, dtype), f"{field}.dtype")
    check_quantisation(quantisation, f"{field}.quantisation", dtype)
    place = None if device is None else check_device(device, f"{field}.device")
    origin = source if isinstance(source, Origin) else resolve(source, revision, field)
    options: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    found = read_config(origin.path, field)
    check_causal(found, field)
    if origin.file is not None:
        model = _open_file(origin.path, found, config, dtype, place, field, options)
    else:
        model = _open_folder(origin.folder, config or found, dtype, place, field, options)
    model.config._name_or_path = origin.hub_id or str(origin.path)
    model.ultrafuser_origin = origin
    return model if quantisation is None else quantise(model, quantisation, f"{field}.quantisation")


def number_format(dtype: torch.dtype | str | None, field: str = "dtype") -> torch.dtype | None:
    """The number format of a name such as bfloat16; None for None and auto. Raises ValueError for others."""
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize == 1:
        raise ValueError(
            f"{field}: {str(dtype)!r} is no number format for weights; choose float32, bfloat16, float16, float64 or "
            "auto"
        )
    return found


def _open_file(
    path: Path,
    found: PreTrainedConfig,
    config: PreTrainedConfig | None,
    dtype: torch.dtype | None,
    device: torch.device | None,
    field: str,
    options: dict[str, Any],
) -> PreTrainedModel:
    """The model of a GGUF file, from its converted copy; where none can be kept, from the file."""
    kept = copy_or_model(path, found, field, **options)
    if isinstance(kept, Path):
        return _open_folder(kept, config or read_config(kept, field), dtype, device, field, options)
    return kept.to(device=device, dtype=dtype)


def _open_folder(
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype | None,
    device: torch.device | None,
    field: str,
    options: dict[str, Any],
) -> PreTrainedModel:
    check_weights(folder, field)
    if device is not None and device.type != "cpu":
        options = options | {"device_map": {"": device}}  # else the whole model would lie in main memory first
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype="auto" if dtype is None else dtype, output_loading_info=True, **options
        )
    except (RuntimeError, ValueError, SafetensorError, OSError) as error:
        raise ValueError(f"{field}: the weights in {str(folder)!r} do not load: {error}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"{field}: {str(folder)!r} lacks {len(missing)} weights, first {missing[0]!r}; a specialist must be "
            "a complete causal language model with its output head"
        )
    return model


def open_tokenizer(origin: Origin, field: str = "tokenizer") -> Any:
    """The tokenizer of a model: in its GGUF file, or beside its weights. Raises ValueError where there is none."""
    if origin.file is not None:
        gguf.check_file(origin.path, field)
        return gguf.open_tokenizer(origin.path, field, gguf.find_copy(origin.path))
    try:
        return AutoTokenizer.from_pretrained(origin.folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{field}: the tokenizer in {str(origin.folder)!r} cannot be opened ({reason})") from error


def describe(specialist: PreTrainedModel) -> dict[str, Any]:
    """The specialist's configuration as plain JSON, with its model type and no local path."""
    fields = specialist.config.to_diff_dict() | {"model_type": specialist.config.model_type}
    fields.pop("_name_or_path", None)
    return fields


def licence_of(folder: Path) -> str | None:
    """The licence that the folder's README.md declares in its front matter, or a GGUF file in itself, or None."""
    if folder.is_file():
        return gguf.licence(folder)
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    front = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^licen[sc]e:\s*[\"']?([^\s\"'#]+)", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None
