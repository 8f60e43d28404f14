"""A specialist from a base model: a low-rank adapter trained on one domain's data (Hu et al. 2021, arXiv 2106.09685).

The adapter is PEFT's; the training is a stage like those of a fused model, on a fused model of one specialist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, TrainerCallback

from ultrafuser.data import ResponseDataset, load_conversations, split_validation
from ultrafuser.modeling.adapted_linear import linear_layers
from ultrafuser.modeling.adapter_folders import note_base
from ultrafuser.modeling.model import UltraFuserForCausalLM
from ultrafuser.modeling.specialists import (
    Origin,
    content_hash,
    licence_of,
    open_specialist,
    open_tokenizer,
    read_config,
    resolve,
)
from ultrafuser.modeling.storage import staged
from ultrafuser.recipe import StageConfig
from ultrafuser.templates import load_template
from ultrafuser.training.results import StageResult
from ultrafuser.training.stages import run_stages
from ultrafuser.training.work import finish_run

__all__ = ["ADAPTER_FILE", "Adapter", "Specialised", "specialise", "with_adapter"]

ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """Shape of a low-rank adapter. `targets` are names of linear layers, or all of them but the head."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"adapter: rank {self.rank}, alpha {self.alpha:g}, dropout {self.dropout:g}; the rank must be at least "
                "1, alpha above 0, dropout from 0 up to but not including 1"
            )


@dataclass
class Specialised:
    """What the training gave: where the adapter lies, how many weights learned, losses in nats per response token."""

    output: str
    name: str
    trained_parameters: int
    base_parameters: int
    examples: dict[str, int]
    stage: StageResult
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def specialise(
    base: str | Path,
    data: Sequence[str | Path],
    output: str | Path,
    stage: StageConfig,
    *,
    name: str = "specialist",
    revision: str | None = None,
    template: str | None = None,
    adapter: Adapter | None = None,
    validation_fraction: float = 0.05,
    limit: int | None = None,
    max_length: int = 512,
    dtype: str = "bfloat16",
    seed: int = 0,
    overwrite: bool = False,
    merged: str | Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], None] = lambda message: None,
) -> Specialised:
    """Train an adapter on `data` and save it, in PEFT's format, with tokenizer, template and card, to `output`.

    `base` is a folder, a GGUF file or a Hub id with `revision`; `template` None is the base's own. With `dtype`
    bfloat16 the products are made in 16 bits. `merged` names a folder for the base with the adapter worked in, an
    ordinary model. Called again after an interruption it goes on. Raises ValueError before any long work.
    """
    started, adapter = time.perf_counter(), adapter or Adapter()
    output = Path(output)
    _refuse_adapter(output, overwrite)
    _refuse_targets(resolve(base, revision, "BASE"), adapter)
    say("reading the data")
    conversations = load_conversations([str(entry) for entry in data], name, limit=limit)
    train, validation = split_validation(conversations, validation_fraction, seed=seed)
    say("opening the base model")
    plain = open_specialist(base, revision, dtype, field="BASE")
    origin: Origin = plain.ultrafuser_origin
    tokenizer = open_tokenizer(origin, "BASE")
    source = load_template(template, tokenizer, field="--template")
    wrapped = with_adapter(plain, adapter, seed)
    model = UltraFuserForCausalLM.from_specialists({name: wrapped.get_base_model()}, templates={name: source})
    sets = [
        ResponseDataset.from_conversations(
            part, [source], tokenizer, max_length=max_length, on_too_long="drop", categories=[name], part=kind
        )
        for kind, part in (("train", train), ("validation", validation))
    ]
    base_hash = content_hash(origin.path)
    result = run_stages(
        model, tokenizer, [stage], sets[0], sets[1], output,
        seed=seed, callbacks=callbacks, overwrite=overwrite, forced_gate_weights=[1.0],
        recipe={"adapter": asdict(adapter), "base": base_hash, "template": source},
    )  # fmt: skip
    found = Specialised(
        output=str(output),
        name=name,
        trained_parameters=sum(p.numel() for key, p in wrapped.named_parameters() if "lora_" in key),
        base_parameters=sum(p.numel() for key, p in wrapped.named_parameters() if "lora_" not in key),
        examples={"train": len(sets[0]), "validation": len(sets[1]), "too_long": sets[0].dropped[name]},
        stage=result.stages[0],
    )
    if PartialState().is_main_process:
        say(f"saving the adapter to {output}")
        tokenizer.chat_template = source
        _save(wrapped, tokenizer, output, _card(found, adapter, stage, origin, base_hash), base_hash)
        if merged is not None:
            say(f"saving the merged model to {merged}")
            _save(wrapped.merge_and_unload(), tokenizer, Path(merged), _merged_card(found, origin))
        finish_run(output)
    found.seconds = round(time.perf_counter() - started, 2)
    return found


def _refuse_adapter(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {str(output)!r} is a file; give a folder")
    if (output / ADAPTER_FILE).is_file() and not overwrite:
        raise ValueError(
            f"--output: {output} already holds an adapter; choose another folder or give --overwrite to replace it"
        )


def _refuse_targets(base: Origin, adapter: Adapter) -> None:
    """Raise ValueError, before any weights are read, where no layer fits, or one that adapters must leave alone."""
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(read_config(base.path, "BASE"))
    known = linear_layers(plain)
    names = [name for name, _ in with_adapter(plain, adapter, 0).named_parameters() if "lora_" in name]
    for name in names:
        layer = name.removeprefix("base_model.model.").partition(".lora_")[0]
        if layer not in known:
            kinds = ", ".join(sorted({one.rpartition(".")[2] for one in known}))
            raise ValueError(
                f"--targets: {layer!r} is embedding or head, which specialists on one base share; choose among {kinds}"
            )


def with_adapter(plain: Any, adapter: Adapter, seed: int) -> Any:
    """The model wrapped by PEFT, its adapter drawn from `seed`. Raises ValueError where no layer fits `targets`."""
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ValueError("adapters need the package peft: pip install 'ultrafuser[adapters]'") from error
    targets = adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(plain, config, autocast_adapter_dtype=False)
        except ValueError as error:
            linear = sorted({name.rpartition(".")[2] for name in linear_layers(plain)})
            raise ValueError(
                f"--targets: {targets!r} fits no layer of the base that an adapter can sit on; its linear layers "
                f"are called {', '.join(linear)}"
            ) from error


def _save(model: Any, tokenizer: Any, folder: Path, card: str, base_hash: str | None = None) -> None:
    """`base_hash` is recorded beside an adapter, so that it is not put on another base."""
    with staged(folder) as place:
        model.save_pretrained(place)
        note_base(place, base_hash)
        tokenizer.save_pretrained(place)
        (place / "README.md").write_text(card, encoding="utf-8")


def _card(found: Specialised, adapter: Adapter, stage: StageConfig, origin: Origin, base_hash: str) -> str:
    """The adapter's card: base and hash, shape, training, losses. No path of this machine."""
    base = origin.hub_id or origin.path.name
    before, after = found.stage.before or {}, found.stage.after or {}
    licence = licence_of(origin.folder) if origin.file is None else None
    front = f"---\nlibrary_name: peft\ntags: [ultrafuser, lora]\n{f'license: {licence}' if licence else ''}\n---\n"
    return (
        f"{front}\n# {found.name}\n\nA low-rank adapter on {base} (content hash `{base_hash}`), made by `ultrafuser "
        f"specialise`.\n\n- rank {adapter.rank}, alpha {adapter.alpha:g}, layers: {adapter.targets}; "
        f"{found.trained_parameters:,} weights on {found.base_parameters:,}\n- {stage.steps} steps of "
        f"{stage.examples_per_category} examples at {stage.learning_rate:g}, {found.examples['train']:,} examples\n"
        f"- validation loss, nats per response token: {before.get(found.name, float('nan')):.4f} before, "
        f"{after.get(found.name, float('nan')):.4f} after ({found.examples['validation']:,} examples)\n"
    )


def _merged_card(found: Specialised, origin: Origin) -> str:
    base = origin.hub_id or origin.path.name
    return f"---\ntags: [ultrafuser]\n---\n\n# {found.name}\n\n{base} with the adapter {found.name} worked in.\n"
