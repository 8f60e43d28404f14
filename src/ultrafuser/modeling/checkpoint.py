"""Saving, loading and publishing a fused model, in two forms.

Self-contained: all weights, as any Transformers checkpoint. Gate only: the gate's weights (megabytes) and, for each
specialist, where it lies and the hash of its weights; others are refused at load.
"""

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig
from transformers.utils import cached_file

from ultrafuser.hashing import content_hash
from ultrafuser.modeling.card import model_card, publishable, publishable_recipe
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.specialists import Origin, check_weights, is_folder_like, open_specialist, read_config, resolve
from ultrafuser.modeling.storage import check_output, staged

if TYPE_CHECKING:
    from ultrafuser.modeling.model import UltraFuserForCausalLM

WEIGHTS = "model.safetensors"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")
UPLOAD_OPTIONS = ("commit_message", "commit_description", "create_pr", "revision")


# ---- saving ----


def save_fused(
    model: "UltraFuserForCausalLM",
    tokenizer: Any,
    directory: str | os.PathLike,
    *,
    gate_only: bool = False,
    overwrite: bool = False,
    recipe_yaml: str | None = None,
) -> None:
    """Save model, tokenizer and card as one: either all files are there afterwards or none has changed.

    The tokenizer gets the first specialist's template where it has none. Raises ValueError where `directory` holds a
    model and `overwrite` is not set, OSError (ENOSPC) where the disk is full.
    """
    check_output(directory, overwrite)
    if recipe_yaml is not None:
        model.config.recipe = publishable_recipe(recipe_yaml)
    with staged(directory, _bytes(model, gate_only)) as folder:
        _write(model, super(type(model), model).save_pretrained, folder, Path(directory), gate_only, {})
        if tokenizer is not None:
            tokenizer = copy.deepcopy(tokenizer)
            if not getattr(tokenizer, "chat_template", None) and model.config.templates[0]:
                tokenizer.chat_template = model.config.templates[0]
            tokenizer.save_pretrained(folder)


def save(
    model: "UltraFuserForCausalLM",
    save_full: Callable[..., None],
    directory: str | os.PathLike,
    gate_only: bool,
    options: dict[str, Any],
) -> None:
    """Behind `save_pretrained`: written beside `directory`, then moved into place. `options` go to Transformers."""
    push = options.pop("push_to_hub", False)
    upload = {name: options.pop(name) for name in (*UPLOAD_OPTIONS, "repo_id", "private") if name in options}
    if not options.get("is_main_process", True) or options.get("distributed_checkpoint"):
        save_full(directory, **options)
        return
    with staged(directory, _bytes(model, gate_only)) as folder:
        _write(model, save_full, folder, Path(directory), gate_only, options)
    if push:
        repo_id = upload.pop("repo_id", Path(directory).name)
        push_folder(model, repo_id, gate_only, upload | {"token": options.get("token")})


def _bytes(model: "UltraFuserForCausalLM", gate_only: bool) -> int:
    parameters = model.gate.parameters() if gate_only else model.parameters()
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _write(
    model: "UltraFuserForCausalLM",
    save_full: Callable[..., None],
    folder: Path,
    final: Path,
    gate_only: bool,
    options: dict[str, Any],
) -> None:
    """All files but the tokenizer's into `folder`, which will be known as `final`."""
    _hash_sources(model)
    if gate_only:
        _write_gate(model, folder, final)
    else:
        save_full(folder, **options)
    (folder / "README.md").write_text(model_card(model.config, gate_only=gate_only), encoding="utf-8")


def _hash_sources(model: "UltraFuserForCausalLM") -> None:
    """Note the hash of every specialist whose files are known, once."""
    for entry, specialist in zip(model.config.sources, model.specialists, strict=True):
        places = {"": getattr(specialist, "ultrafuser_origin", None), "base": getattr(specialist, "base_origin", None)}
        for part, origin in places.items():
            noted = entry.get(part) if part else entry
            if noted is not None and origin is not None and noted.get("sha256") is None:
                noted["sha256"] = content_hash(origin.path)


def _write_gate(model: "UltraFuserForCausalLM", folder: Path, final: Path) -> None:
    config = copy.deepcopy(model.config)
    config.gate_only = True
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    for name, entry, specialist in zip(config.specialist_names, config.sources, model.specialists, strict=True):
        origin: Origin | None = getattr(specialist, "ultrafuser_origin", None)
        if origin is None:
            raise ValueError(
                f"specialists.{name}: fused from memory or from a self-contained checkpoint, so a gate-only checkpoint "
                "has nothing to point at; save without gate_only, or fuse from folders or Hub ids"
            )
        _check_unchanged(name, specialist, origin)
        if origin.hub_id is None:
            entry["folder"] = str(origin.path)
            entry["folder_from_here"] = os.path.relpath(origin.path, final.resolve())
    state = {f"gate.{key}": value.detach().cpu().contiguous() for key, value in model.gate.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _check_unchanged(name: str, specialist: Any, origin: Origin) -> None:
    """Raise ValueError where a specialist learned since it was opened: a gate-only checkpoint would lose that."""
    stored = open_specialist(origin.path, dtype=specialist.dtype, field=f"specialists.{name}").state_dict()
    for key, value in specialist.state_dict().items():
        if not torch.equal(value.detach().cpu(), stored[key].cpu()):
            raise ValueError(
                f"specialists.{name}: its weights differ from those in {str(origin.path)!r} (first in {key}), so it "
                "was trained after it was opened; a gate-only checkpoint would lose that. Save without gate_only"
            )


# ---- loading ----


def load(
    model_class: "type[UltraFuserForCausalLM]",
    load_full: Callable[..., Any],
    path: str | os.PathLike | None,
    specialist_paths: Mapping[str, str | os.PathLike] | None,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Behind `from_pretrained`: opens either form. Raises ValueError naming folder or specialist, value and fix."""
    if path is None:
        return load_full(path, *arguments, **options)
    if is_folder_like(path):
        path = resolve(path, field="model").folder
        read_config(path, "model")
    config = options.get("config")
    if not isinstance(config, UltraFuserConfig):
        hub = {name: options[name] for name in HUB_OPTIONS if name in options}
        fields, _ = UltraFuserConfig.get_config_dict(path, **hub)
        if fields.get("model_type") != UltraFuserConfig.model_type:
            kind = fields.get("model_type")
            raise ValueError(f"model: {str(path)!r} is not a fused model (model_type {kind!r} in its config.json)")
        config = UltraFuserConfig.from_pretrained(path, **hub)
    if isinstance(path, Path):
        check_weights(path, "model")
    if config.gate_only:
        return _load_gate(load_full, path, config, specialist_paths or {}, arguments, options)
    if specialist_paths:
        raise ValueError(
            f"specialist_paths: {str(path)!r} is self-contained and carries its own specialists; leave it out"
        )
    return load_full(path, *arguments, **options)


def _load_gate(
    load_full: Callable[..., Any],
    path: str | os.PathLike,
    config: UltraFuserConfig,
    specialist_paths: Mapping[str, str | os.PathLike],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    for name in specialist_paths:
        if name not in config.specialist_names:
            raise ValueError(
                f"specialist_paths.{name}: no such specialist; there are {', '.join(config.specialist_names)}"
            )
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    origins = [
        _verified(name, entry, specialist_paths.get(name), path)
        for name, entry in zip(config.specialist_names, config.sources, strict=True)
    ]
    state = load_file(str(cached_file(path, WEIGHTS, **hub)))
    for j, (name, origin) in enumerate(zip(config.specialist_names, origins, strict=True)):
        specialist = open_specialist(origin.path, field=f"specialists.{name}")
        state |= {f"specialist{j}.{key}": value for key, value in specialist.state_dict().items()}
    config = copy.deepcopy(config)
    config.gate_only = False
    for entry in config.sources:
        entry.pop("folder", None)
        entry.pop("folder_from_here", None)
    options = options | {"config": config, "state_dict": state}
    options.setdefault("generation_config", GenerationConfig.from_pretrained(path, **hub))
    result = load_full(None, *arguments, **options)
    model = result[0] if isinstance(result, tuple) else result
    for specialist, origin in zip(model.specialists, origins, strict=True):
        specialist.ultrafuser_origin = origin
    return result


def _verified(name: str, entry: Mapping[str, Any], given: str | os.PathLike | None, path: str | os.PathLike) -> Origin:
    """Where specialist `name` lies, its weights checked against the hash. Raises ValueError where it is another one."""
    field = f"specialists.{name}"
    if given is not None:
        origin = resolve(given, field=f"specialist_paths.{name}")
    elif entry.get("id"):
        origin = resolve(entry["id"], entry.get("revision"), field)
    else:
        nearby = Path(path) / entry.get("folder_from_here", "")
        folder = nearby if entry.get("folder_from_here") and nearby.exists() else Path(entry.get("folder") or "?")
        if not folder.exists():
            raise ValueError(
                f"{field}: folder {str(folder)!r} does not exist any more; say where it is now with "
                f"specialist_paths={{{name!r}: ...}}"
            )
        origin = resolve(folder, field=field)
    found, expected = content_hash(origin.path), entry.get("sha256")
    if found != expected:
        raise ValueError(
            f"{field}: the weights in {str(origin.path)!r} have SHA-256 {found}, but this gate belongs to "
            f"{expected}; point at the right ones with specialist_paths={{{name!r}: ...}}, or train a gate for these"
        )
    return origin


# ---- publishing ----


def push_folder(model: "UltraFuserForCausalLM", repo_id: str, gate_only: bool, options: dict[str, Any]) -> Any:
    """Behind `push_to_hub`: save to a temporary folder, take local paths out, upload with our card.

    Raises ValueError for a gate-only checkpoint of specialists that are not on the Hub, TypeError for unknown options.
    """
    known = {*UPLOAD_OPTIONS, "token", "private", "max_shard_size", "tags"}
    for name in options:
        if name not in known:
            raise TypeError(f"push_to_hub: unknown argument {name!r}")
    if gate_only:
        for name, entry in zip(model.config.specialist_names, model.config.sources, strict=True):
            if not entry.get("id"):
                raise ValueError(
                    f"specialists.{name}: lies in a local folder, so nobody else could open a published gate-only "
                    "checkpoint; publish the specialist first, or push without gate_only"
                )
    api = HfApi(token=options.get("token"))
    repo_id = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"max_shard_size": options["max_shard_size"]} if options.get("max_shard_size") else {}
        model.save_pretrained(folder, gate_only=gate_only, **sizes)
        config_file = Path(folder) / "config.json"
        fields = json.loads(config_file.read_text(encoding="utf-8"))
        fields["gate_training"] = publishable(fields.get("gate_training"))
        config_file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        card = model_card(model.config, gate_only=gate_only, tags=options.get("tags") or (), repo_id=repo_id)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        upload = {name: options[name] for name in UPLOAD_OPTIONS if options.get(name) is not None}
        return api.upload_folder(repo_id=repo_id, folder_path=folder, **upload)
