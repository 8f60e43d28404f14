"""A recipe from beginning to end: specialists and data opened, stages run, the fused model saved with its card."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from ultrafuser.adapter_files import find_base, is_adapter, read_adapter
from ultrafuser.modeling import UltraFuserForCausalLM, save_fused
from ultrafuser.modeling.specialists import Origin, open_tokenizer
from ultrafuser.modeling.specialists import resolve as find_origin
from ultrafuser.recipe import Recipe
from ultrafuser.tokens import difference
from ultrafuser.training.evaluation import evaluate_many, evaluate_response_loss
from ultrafuser.training.material import Material, load_material, participation_lines
from ultrafuser.training.results import TrainingResult
from ultrafuser.training.stages import run_stages
from ultrafuser.training.start import open_start, start_mark
from ultrafuser.training.work import HELDOUT_FILE, finish_run, is_unfinished, work_folder, write_json

__all__ = ["RecipeResult", "build_model", "pick_device", "recipe_fingerprint", "train_recipe"]

Resolve = Callable[[str], str]
Losses = dict[str, dict[str, float]]  # method -> domain -> nats per token


@dataclass
class RecipeResult:
    """What a run of a recipe gave; `heldout` holds losses by method and domain where there is held-out data, in nats
    per response token (of the canonical tokenizer), `heldout_per_byte` the same in nats per byte of the answers."""

    output: str
    specialists: list[str]
    data: dict[str, dict[str, int]]
    training: TrainingResult
    heldout: Losses = field(default_factory=dict)
    heldout_gate_weights: dict[str, dict[str, float]] = field(default_factory=dict)
    heldout_per_byte: Losses = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything but the history as plain JSON."""
        found = {key: value for key, value in asdict(self).items() if key != "training"}
        return {**found, **self.training.as_dict()}


def train_recipe(
    recipe: Recipe,
    *,
    resolve: Resolve = str,
    resolve_data: Resolve = str,
    overwrite: bool = False,
    keep: Literal["last", "best"] = "last",
    gate_only: bool = False,
    start: str | Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], None] = lambda message: None,
) -> RecipeResult:
    """Train what `recipe` says and save it to its output; run again after an interruption it goes on.

    `resolve` turns sources such as `zoo:text` into folders, `resolve_data` entries such as `zoo-sample:text/train` into
    files; `say` is told what is being done. `gate_only` saves the gate alone, which points at the specialists. `start`
    is the folder of a fused model whose weights, gate included, the stages go on from.
    Raises as `run_stages` does.
    """
    if gate_only:
        _refuse_learning_specialists(recipe)
    else:
        _refuse_quantised(recipe)
    started, output = time.perf_counter(), Path(recipe.output)
    going_on = is_unfinished(output)
    say("opening the specialists")
    model, tokenizer = (
        build_model(recipe, resolve) if start is None else open_start(start, recipe, pick_device(recipe.device))
    )
    say("reading and encoding the data")
    encoding = tokenizer if model.alignment is None else model.alignment.tables
    material = load_material(recipe, list(model.config.templates), encoding, resolve_data, say)
    for line in participation_lines(material.train, list(model.config.specialist_names)):
        say(line)
    before: Losses = {}

    def measure_parts() -> None:
        if material.heldout is not None:
            say("measuring the specialists on the held-out data")
            before.update(_parts(model, material, work_folder(output) / HELDOUT_FILE))

    result = run_stages(
        model,
        tokenizer,
        recipe.stages,
        material.train,
        material.validation,
        output,
        seed=recipe.seed,
        callbacks=callbacks,
        overwrite=overwrite,
        keep=keep,
        recipe=recipe_fingerprint(recipe) | start_mark(start),
        before_stages=measure_parts,
        say=say,
    )
    names = list(model.config.specialist_names)
    found = RecipeResult(str(output), names, material.as_dict(names), result, before)
    if material.heldout is not None:
        say("measuring the fused model on the held-out data")
        fused = evaluate_response_loss(model, material.heldout)
        found.heldout["fused"] = fused.by_category()
        found.heldout_gate_weights = fused.mean_weights()
        found.heldout_per_byte = material.heldout.per_byte(found.heldout)
    if PartialState().is_main_process:
        say(f"saving to {output}")
        save_fused(
            model,
            tokenizer,
            output,
            gate_only=gate_only,
            overwrite=overwrite or going_on,
            recipe_yaml=recipe.dump_yaml(public=True),
        )
        finish_run(output)
    PartialState().wait_for_everyone()
    found.seconds = round(time.perf_counter() - started, 2)
    return found


def _refuse_learning_specialists(recipe: Recipe) -> None:
    """Raise ValueError where a stage changes specialists: a gate-only checkpoint could not hold that."""
    for stage in recipe.stages:
        if stage.train != "gate":
            raise ValueError(
                f"--gate-only: stage {stage.name!r} trains the specialists, which a gate-only checkpoint does not "
                "hold; leave the option out, or the stage"
            )


def _refuse_quantised(recipe: Recipe) -> None:
    """Raise ValueError where a specialist is quantised: a self-contained checkpoint could not hold it."""
    for name, spec in recipe.specialists.items():
        if spec.quantisation is not None:
            raise ValueError(
                f"specialists.{name}.quantisation: {spec.quantisation} weights are not saved, they are made anew at "
                "every opening; add --gate-only, or leave quantisation out"
            )


def build_model(recipe: Recipe, resolve: Resolve = str) -> tuple[Any, Any]:
    """The fused model of a recipe, gate untrained, on the recipe's device, and its tokenizer."""
    specialists = recipe.specialists
    sources: dict[str, Any] = {n: s.source if s.is_hub else resolve(s.source) for n, s in specialists.items()}
    bases = {n: resolve(s.base) if s.base_revision is None else s.base for n, s in specialists.items() if s.base}
    origins = {n: find_origin(sources[n], s.revision, f"specialists.{n}.source") for n, s in specialists.items()}
    canonical = recipe.tokenizer_name
    tokenizer = open_tokenizer(
        _tokenizer_place(origins[canonical], bases.get(canonical), specialists[canonical].base_revision, canonical),
        f"specialists.{canonical}.source",
    )
    for name, spec in specialists.items():
        if spec.dtype is not None and is_adapter(origins[name].folder):
            raise ValueError(
                f"specialists.{name}.dtype: {spec.dtype!r} given, but an adapter has its base's format; remove it"
            )
    first = next(iter(sources))
    if first != canonical:
        place = _tokenizer_place(origins[first], bases.get(first), specialists[first].base_revision, first)
        if difference({canonical: tokenizer, first: open_tokenizer(place)}):
            sources = {canonical: sources[canonical], **sources}  # the canonical tokenizer is the first specialist's
    own = {name: spec.dtype or recipe.dtype for name, spec in specialists.items()}
    told = any(spec.dtype is not None for spec in specialists.values())
    model = UltraFuserForCausalLM.from_specialists(
        sources,
        templates={name: spec.template for name, spec in specialists.items()},
        gate=recipe.gate.model_dump(exclude_none=True),
        fusion=recipe.fusion.model_dump(),
        seed=recipe.seed,
        dtype=own if told else recipe.dtype,
        device=pick_device(recipe.device),
        devices={name: spec.device for name, spec in specialists.items() if spec.device is not None},
        quantisation={name: spec.quantisation for name, spec in specialists.items()},
        revisions={name: spec.revision for name, spec in specialists.items() if spec.revision is not None},
        bases=bases,
        base_revisions={name: spec.base_revision for name, spec in specialists.items() if spec.base_revision},
    )
    for name, template in zip(model.config.specialist_names, model.config.templates, strict=True):
        if not template:
            raise ValueError(
                f"specialists.{name}.template: the tokenizer has none of its own; name the one it learnt with"
            )
    return model, tokenizer


def _tokenizer_place(origin: Origin, base: str | None, revision: str | None, name: str) -> Origin:
    """Where a specialist's tokenizer lies: an adapter's may be that of its base."""
    if not is_adapter(origin.folder) or any(origin.folder.glob("tokenizer*")):
        return origin
    where = f"specialists.{name}"
    found = find_base(read_adapter(origin.folder, where), base, revision, where)
    return find_origin(*found, f"{where}.base")


def pick_device(wanted: str) -> str:
    """A recipe's device in PyTorch's words; auto is this process's GPU, or else the processor."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return f"cuda:{PartialState().local_process_index}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _parts(model: Any, material: Material, file: Path) -> Losses:
    """Held-out loss of each specialist and of their uniform mixture, before anything has learnt; kept in a file."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    assert material.heldout is not None
    names, n = list(model.config.specialist_names), model.n_specialists
    weightings = {name: [float(j == place) for j in range(n)] for place, name in enumerate(names)}
    weightings["uniform"] = [1 / n] * n
    found = {name: loss.by_category() for name, loss in evaluate_many(model, material.heldout, weightings).items()}
    if PartialState().is_main_process:
        write_json(file, found)
    return found


def recipe_fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What decides the result, beside stages and seed: another output, name or device goes on with the same run."""
    whole = recipe.portable().model_dump(mode="json")
    for data in whole["data"].values():
        data.pop("heldout")
    for specialist in whole["specialists"].values():
        specialist.pop("device")
    return {key: whole[key] for key in ("specialists", "tokenizer", "gate", "fusion", "data", "max_length", "dtype")}
