"""The parts of a demo run: each trains or measures something, is stored when done, and is never done twice.

A part killed midway goes on from its last checkpoint when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from ultrafuser.demo.examples import coloured_examples
from ultrafuser.demo.material import Material, open_material
from ultrafuser.demo.plan import DemoPlan, DemoSources, recipe, write_model
from ultrafuser.demo.results import DOMAINS, ByDomain, Curve, Example, Item, Strict
from ultrafuser.demo.statistics import loss_by_domain, mean_over_domains
from ultrafuser.recipe import StageConfig

Weights = Sequence[float] | None  # forced weights, None asks the gate
Report = Callable[[str, int, int, float | None], None]  # phase, done, total, loss


class Part(Strict):
    """What one part found: held-out items by method, validation losses by method, curves, answers, parameters."""

    items: dict[str, list[Item]]
    validation: dict[str, ByDomain] = Field(default_factory=dict)
    curves: list[Curve] = Field(default_factory=list)
    examples: list[Example] = Field(default_factory=list)
    parameters: dict[str, int] = Field(default_factory=dict)
    training_items: dict[str, int] = Field(default_factory=dict)


@dataclass
class Context:
    """What every part is given: settings, sources, the run's folder, whom to tell how far it is."""

    plan: DemoPlan
    sources: DemoSources
    folder: Path
    report: Report

    @cached_property
    def material(self) -> Material:
        """Tokenizer, templates and conversations, opened at first use."""
        return open_material(self.plan, self.sources)

    def work(self, name: str) -> Path:
        """Folder for checkpoints, removed when the run is finished."""
        return self.folder / "work" / name


def run_part(name: str, context: Context) -> Part:
    """Do one part, or read it where it is already done."""
    file = part_file(context.folder, name)
    if not file.is_file():
        write_model(file, PARTS[name](context))
    return load_part(context.folder, name)


def load_part(folder: Path, name: str) -> Part:
    """A finished part as it was stored."""
    return Part.model_validate_json(part_file(folder, name).read_text(encoding="utf-8"))


def part_file(folder: Path, name: str) -> Path:
    """Where a finished part is stored."""
    return folder / "parts" / f"{name}.json"


def best_base(validation: dict[str, ByDomain]) -> str:
    """The specialist with the lowest mean validation loss over the domains; the first of equals."""
    return min(validation, key=lambda name: mean_over_domains(validation[name], DOMAINS))


def measure_specialists(context: Context) -> Part:
    """Each specialist alone (all weight on it) on held-out and validation items; and all with equal weights."""
    names = context.material.names
    alone: dict[str, Weights] = {name: [float(other == name) for other in names] for name in names}
    model = _build(context, names)
    items = _measure(context, model, "heldout", "specialists", {**alone, "uniform": _equal(names)})
    chosen_on = _measure(context, model, "validation", "specialists on validation", alone)
    return Part(items=items, validation={name: loss_by_domain(rows) for name, rows in chosen_on.items()})


def train_fused(context: Context) -> Part:
    """Both stages, measured after each; leaves the fused model in the folder `fused`."""
    material, plan = context.material, context.plan
    model = _build(context, material.names)
    phases = {"gate": "stage1", "all": "stage2"}
    items: dict[str, list[Item]] = {}

    def after_stage(stage: StageConfig, trained: Any) -> None:
        phase = phases[stage.name]
        items.update(_measure(context, trained, "heldout", f"fused, {phase}", {phase: None}))

    curves = _train(context, model, [plan.gate_stage(), plan.full_stage()], phases, after_stage=after_stage)
    examples = coloured_examples(model, material, plan)
    yaml = recipe(plan).dump_yaml()
    from ultrafuser.modeling import save_fused

    save_fused(model, material.tokenizer, context.folder / "fused", overwrite=True, recipe_yaml=yaml)
    return Part(
        items=items,
        curves=curves,
        examples=examples,
        parameters={"fused": _parameters(model)},
        training_items=material.dataset("train", material.names).counts(),
    )


def train_uniform(context: Context) -> Part:
    """The control that isolates the gate: equal weights, the same stage 2 for the specialists."""
    names = context.material.names
    model = _build(context, names)
    stage = context.plan.specialists_stage("uniform")
    curves = _train(context, model, [stage], {"uniform": "uniform_stage2"}, weights=_equal(names))
    items = _measure(context, model, "heldout", "uniform, trained", {"uniform_stage2": _equal(names)})
    return Part(items=items, curves=curves)


def train_further(context: Context) -> Part:
    """The best single specialist as a fused model of one, trained on the same batches for the same full steps."""
    base = best_base(load_part(context.folder, "specialists").validation)
    model = _build(context, [base])
    stage = context.plan.specialists_stage("further")
    curves = _train(context, model, [stage], {"further": "further_tuned"})
    items = _measure(context, model, "heldout", "further tuned", {"further_tuned": None})
    parameters = _parameters(model) - sum(p.numel() for p in model.gate.parameters())
    return Part(items=items, curves=curves, parameters={"further_tuned": parameters})


PARTS: dict[str, Callable[[Context], Part]] = {
    "specialists": measure_specialists,
    "fused": train_fused,
    "further_tuned": train_further,
    "uniform_stage2": train_uniform,
}
# Two processes side by side, about equally long; within a lane a part may use what an earlier one stored.
LANES = (("fused",), ("specialists", "further_tuned", "uniform_stage2"))


def _build(context: Context, names: Sequence[str]) -> Any:
    import torch

    from ultrafuser.modeling import UltraFuserForCausalLM

    material = context.material
    return UltraFuserForCausalLM.from_specialists(
        {name: material.folders[name] for name in names},
        templates={name: material.templates[name] for name in names},
        seed=context.plan.seed,
        dtype=torch.float32,
    )


def _train(
    context: Context,
    model: Any,
    stages: Sequence[StageConfig],
    phases: Mapping[str, str],
    *,
    weights: Weights = None,
    after_stage: Callable[[StageConfig, Any], None] | None = None,
) -> list[Curve]:
    """Run the stages; `phases` says what each is called in the demo. One curve per stage."""
    from ultrafuser.training import run_stages
    from ultrafuser.training.step_report import StepReport

    names = model.config.specialist_names
    order = [phases[stage.name] for stage in stages]
    reporter = StepReport(order, context.report)

    def after(stage: StageConfig, trained: Any) -> None:
        reporter.next()
        if after_stage is not None:
            after_stage(stage, trained)

    result = run_stages(
        model,
        context.material.tokenizer,
        stages,
        context.material.dataset("train", names),
        context.material.dataset("validation", names),
        context.work(order[-1]),
        seed=context.plan.seed,
        callbacks=[reporter],
        forced_gate_weights=weights,
        after_stage=after,
        eval_batch_size=context.plan.batch_size,
        tensorboard=False,
    )
    return [
        curve_from_history(phases[stage.name], [entry for entry in result.history if entry["stage"] == stage.name])
        for stage in stages
    ]


def curve_from_history(name: str, history: Sequence[dict[str, Any]]) -> Curve:
    """The training loss per step and the validation loss (mean of the domains' means) out of a training's history."""
    curve = Curve(name=name, steps=[], loss=[])
    for entry in history:
        if "loss" in entry:
            curve.steps.append(int(entry["step"]))
            curve.loss.append(float(entry["loss"]))
        by_domain = [float(entry[key]) for domain in DOMAINS if (key := f"eval_loss_{domain}") in entry]
        if len(by_domain) == len(DOMAINS):
            curve.validation_steps.append(int(entry["step"]))
            curve.validation_loss.append(sum(by_domain) / len(by_domain))
    return curve


def _measure(
    context: Context, model: Any, split: str, label: str, weightings: Mapping[str, Weights]
) -> dict[str, list[Item]]:
    """The items of a split under each weighting, all in one pass; `label` says in the progress what is measured."""
    from ultrafuser.training import evaluate_many

    dataset = context.material.dataset(split, model.config.specialist_names)
    phase = f"measure: {label}"
    context.report(phase, 0, len(dataset), None)
    found = evaluate_many(
        model,
        dataset,
        weightings,
        batch_size=context.plan.batch_size,
        progress=lambda done, total: context.report(phase, done, total, None),
    )
    return {
        method: [
            Item(id=e.id, category=e.category, n_tokens=e.n_tokens, loss_sum=e.loss_sum, weights=list(e.weights))
            for e in losses.per_example
        ]
        for method, losses in found.items()
    }


def _equal(names: Sequence[str]) -> list[float]:
    return [1 / len(names)] * len(names)


def _parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())
