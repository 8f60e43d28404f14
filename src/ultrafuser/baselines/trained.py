"""Training a comparator through `run_stages`, and saving it as an ordinary model folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ultrafuser.baselines.budget import fit_stages
from ultrafuser.baselines.counting import parameters, stage_operations, used_parameters
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.recipe import StageConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ultrafuser.training import TrainingResult

__all__ = ["save_fuser", "save_plain", "train_fuser", "train_plain", "train_taught", "validation_of"]


def train_plain(
    setting: Setting,
    model: PreTrainedModel,
    template: str,
    *,
    method: str,
    stages: Sequence[StageConfig] | None = None,
    domains: Sequence[str] | None = None,
    title: str = "",
    note: str = "",
    chosen: dict[str, Any] | None = None,
) -> Made:
    """Train one plain model on the setting's data (of these domains only), save it, count it.

    It trains as a fused model of one specialist on the batches, steps and loss that every method has. `method` names
    it in the fingerprint that a resumed run must share; `title` heads its card.
    """
    fused = setting.fuse({method: model}, {method: template})
    stages = [setting.stage(method)] if stages is None else list(stages)
    result, operations, steps = _run(setting, fused, stages, method, domains=domains, gate_learns=False)
    save_plain(setting, model, template, title=title or method, note=note)
    found = {**(chosen or {}), **validation_of(result)}
    return Made(setting.folder, parameters(model), used_parameters(model), operations, steps, note, found)


def train_fuser(
    setting: Setting,
    fused: Any,
    stages: Sequence[StageConfig],
    *,
    method: str,
    forced: Sequence[float] | None = None,
    gate_only: bool = False,
    note: str = "",
    chosen: dict[str, Any] | None = None,
) -> Made:
    """Train a fused model, with the gate or with `forced` weights (N,) in its place, save it, count it.

    `gate_only` saves the gate alone, which points at the specialists; none of them may have learned.
    """
    result, operations, steps = _run(setting, fused, stages, method, forced=forced, gate_learns=forced is None)
    save_fuser(setting, fused, gate_only=gate_only)
    gate = parameters(fused.gate) if any(stage.train != "specialists" for stage in stages) else 0
    body = parameters(*fused.specialists) if any(stage.train != "gate" for stage in stages) else 0
    found = {**(chosen or {}), **validation_of(result)}
    return Made(setting.folder, gate + body, parameters(fused), operations, steps, note, found)


def train_taught(setting: Setting, taught: Any, stage: StageConfig, *, method: str, title: str, note: str) -> Made:
    """Train the learner of a `TaughtModel`, save it as a plain model in its own template, count it and its teachers."""
    forced = [float(j in taught.learners) for j in range(taught.n_specialists)]
    result, operations, steps = _run(setting, taught, [stage], method, forced=forced, gate_learns=False)
    learner = taught.specialist(0)
    save_plain(setting, learner, taught.config.templates[0], title=title, note=note)
    count = parameters(learner)
    return Made(setting.folder, count, count, operations, steps, note, validation_of(result))


def _run(
    setting: Setting,
    fused: Any,
    stages: Sequence[StageConfig],
    method: str,
    *,
    domains: Sequence[str] | None = None,
    forced: Sequence[float] | None = None,
    gate_learns: bool,
) -> tuple[TrainingResult, int, int]:
    """The stages, fitted to the setting's operations where it has a budget: result, operations, steps."""
    from ultrafuser.training import run_stages

    material = setting.encoded(fused.config.templates, domains)
    count: dict[str, Any] = {"seed": setting.seed, "gate_learns": gate_learns}
    if setting.operations is not None:
        stages = fit_stages(fused, stages, material.train, setting.operations, **count)
    result = run_stages(
        fused,
        setting.tokenizer,
        stages,
        material.train,
        material.validation,
        setting.folder,
        seed=setting.seed,
        callbacks=setting.callbacks,
        forced_gate_weights=forced,
        overwrite=setting.overwrite,
        keep=setting.keep,
        recipe={"baseline": method, "variant": setting.variant, "templates": list(fused.config.templates)},
        tensorboard=False,
        say=setting.say,
    )
    return result, stage_operations(fused, stages, material.train, **count), sum(stage.steps for stage in stages)


def validation_of(result: TrainingResult) -> dict[str, Any]:
    """What a training's last stage ended with on the validation data; empty without any."""
    after = result.stages[-1].after
    return {"validation": after} if after else {}


def save_plain(setting: Setting, model: PreTrainedModel, template: str, *, title: str, note: str = "") -> None:
    """Save a plain Transformers model with tokenizer, template and a short card to the setting's folder."""
    import copy

    from ultrafuser.modeling.storage import staged
    from ultrafuser.training.work import finish_run

    setting.say(f"saving to {setting.folder}")
    tokenizer = copy.deepcopy(setting.tokenizer)
    tokenizer.chat_template = template
    with staged(setting.folder, sum(p.numel() * p.element_size() for p in model.parameters())) as place:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        (place / "README.md").write_text(card(title, note), encoding="utf-8")
    finish_run(setting.folder)


def save_fuser(setting: Setting, fused: Any, *, gate_only: bool = False) -> None:
    """Save a fused model, self-contained or the gate alone, with tokenizer and card to the setting's folder."""
    from ultrafuser.modeling import save_fused
    from ultrafuser.training.work import finish_run

    setting.say(f"saving to {setting.folder}")
    save_fused(fused, setting.tokenizer, setting.folder, gate_only=gate_only, overwrite=True)
    finish_run(setting.folder)


def card(title: str, note: str) -> str:
    """A model card that says what the model is for."""
    return (
        f"---\nlibrary_name: transformers\ntags: [ultrafuser, baseline]\n---\n\n# {title}\n\n"
        f"A comparator made by `ultrafuser baseline`, to be measured beside a fused model. {note}\n"
    )
