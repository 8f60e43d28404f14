"""Saving, loading and publishing a fused model, in two forms.

Self-contained: all weights, as any Transformers checkpoint. Gate only: see `gate_checkpoint`.
"""

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi

from ultrafuser.hashing import content_hash
from ultrafuser.modeling.card import model_card, publishable, publishable_recipe
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.gate_checkpoint import HUB_OPTIONS, load_gate, write_gate
from ultrafuser.modeling.manner import Manner
from ultrafuser.modeling.quantisation import needed_format, quantisation_of, quantise
from ultrafuser.modeling.specialists import check_weights, is_folder_like, read_config, resolve
from ultrafuser.modeling.storage import check_output, staged
from ultrafuser.modeling.vocabulary import save_tokenizers

if TYPE_CHECKING:
    from ultrafuser.modeling.model import UltraFuserForCausalLM

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
    _refuse_quantised(model, gate_only)
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
    _refuse_quantised(model, gate_only)
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


def _refuse_quantised(model: "UltraFuserForCausalLM", gate_only: bool) -> None:
    packed = [name for name in model.config.specialist_names if quantisation_of(model.specialist(name))]
    if packed and not gate_only:
        raise ValueError(
            f"specialists.{packed[0]}: quantised weights are not saved, they are made anew at every opening; save with "
            "gate_only=True (--gate-only), or open it without quantisation"
        )


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
        write_gate(model, folder, final)
    else:
        save_full(folder, **options)
    save_tokenizers(model, folder)
    (folder / "README.md").write_text(model_card(model.config, gate_only=gate_only), encoding="utf-8")


def _hash_sources(model: "UltraFuserForCausalLM") -> None:
    """Note the hash of every specialist whose files are known, once."""
    for entry, specialist in zip(model.config.sources, model.specialists, strict=True):
        places = {"": getattr(specialist, "ultrafuser_origin", None), "base": getattr(specialist, "base_origin", None)}
        for part, origin in places.items():
            noted = entry.get(part) if part else entry
            if noted is not None and origin is not None and noted.get("sha256") is None:
                noted["sha256"] = content_hash(origin.path)


# ---- loading ----


def load(
    model_class: "type[UltraFuserForCausalLM]",
    load_full: Callable[..., Any],
    path: str | os.PathLike | None,
    specialist_paths: Mapping[str, str | os.PathLike] | None,
    quantisation: Mapping[str, str | None] | None,
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
    Manner(quantisation=quantisation or {}).check(config.specialist_names)
    if config.gate_only:
        return load_gate(model_class, path, config, specialist_paths or {}, quantisation or {}, arguments, options)
    if specialist_paths:
        raise ValueError(
            f"specialist_paths: {str(path)!r} is self-contained and carries its own specialists; leave it out"
        )
    if not quantisation:
        return load_full(path, *arguments, **options)
    return _load_quantised(load_full, path, quantisation, arguments, options)


def _load_quantised(
    load_full: Callable[..., Any],
    path: str | os.PathLike,
    quantisation: Mapping[str, str | None],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """A self-contained checkpoint whose specialists become integers once all are loaded."""
    options["dtype"] = needed_format(quantisation, options.get("dtype"))
    result = load_full(path, *arguments, **options)
    model = result[0] if isinstance(result, tuple) else result
    for name, kind in quantisation.items():
        if kind is not None:
            specialist = model.specialist(name)
            if quantisation_of(specialist) != kind:  # not with another that shares its base
                quantise(getattr(specialist, "module", specialist), kind, f"specialists.{name}.quantisation")
            model.config.sources[model.config.specialist_names.index(name)]["quantisation"] = kind
    return result


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
