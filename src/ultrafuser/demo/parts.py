"""The parts of a demo run: each trains or measures something, is stored when done, and is never done twice.

A part killed midway goes on from its last checkpoint when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from ultrafuser.demo.examples import coloured_examples
from ultrafuser.demo.material import Material, open_material
from ultrafuser.demo.plan import DemoPlan, DemoSources, recipe, remove, write_model
from ultrafuser.demo.results import DOMAINS, ByDomain, Curve, Example, Item, Strict
from ultrafuser.demo.statistics import loss_by_domain, mean_over_domains
from ultrafuser.recipe import StageConfig

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
        remove(context.work(name))
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
    """Each specialist alone (a fused model of one) on held-out and validation items; all with equal weights."""
    names = context.material.names
    items: dict[str, list[Item]] = {}
    validation: dict[str, ByDomain] = {}
    for name in names:
        model = _build(context, [name])
        items[name] = _measure(context, model, "heldout", name)
        validation[name] = loss_by_domain(_measure(context, model, "validation", name))
    items["uniform"] = _measure(context, _build(context, names), "heldout", "uniform mixture", _equal(names))
    return Part(items=items, validation=validation)


def train_stage1(context: Context) -> Part:
    """The gate learns, the specialists stay as they are."""
    from safetensors.torch import save_file

    model = _build(context, context.material.names)
    curve = _train(context, model, context.plan.gate_stage(), "stage1")
    gate = {name: tensor.contiguous() for name, tensor in model.gate.state_dict().items()}
    save_file(gate, _gate_file(context))
    return Part(items={"stage1": _measure(context, model, "heldout", "fused, stage 1")}, curves=[curve])


def train_stage2(context: Context) -> Part:
    """Gate and specialists learn together; leaves the fused model in the folder `fused`."""
    from safetensors.torch import load_file

    from ultrafuser.modeling import save_fused

    material = context.material
    model = _build(context, material.names)
    model.gate.load_state_dict(load_file(_gate_file(context)))
    curve = _train(context, model, context.plan.full_stage(), "stage2")
    items = _measure(context, model, "heldout", "fused, stage 2")
    validation = loss_by_domain(_measure(context, model, "validation", "fused, stage 2"))
    examples = coloured_examples(model, material, context.plan)
    yaml = recipe(context.plan).dump_yaml()
    save_fused(model, material.tokenizer, context.folder / "fused", overwrite=True, recipe_yaml=yaml)
    return Part(
        items={"stage2": items},
        validation={"stage2": validation},
        curves=[curve],
        examples=examples,
        parameters={"fused": _parameters(model)},
        training_items=material.dataset("train", material.names).counts(),
    )


def train_uniform(context: Context) -> Part:
    """The control that isolates the gate: equal weights, the same stage 2 for the specialists."""
    names = context.material.names
    model = _build(context, names)
    curve = _train(context, model, context.plan.specialists_stage("uniform"), "uniform_stage2", _equal(names))
    items = _measure(context, model, "heldout", "uniform, trained", _equal(names))
    return Part(items={"uniform_stage2": items}, curves=[curve])


def train_further(context: Context) -> Part:
    """The best single specialist as a fused model of one, trained on the same batches for the same full steps."""
    base = best_base(load_part(context.folder, "specialists").validation)
    model = _build(context, [base])
    curve = _train(context, model, context.plan.specialists_stage("further"), "further_tuned")
    items = _measure(context, model, "heldout", "further tuned")
    parameters = _parameters(model) - sum(p.numel() for p in model.gate.parameters())
    return Part(items={"further_tuned": items}, curves=[curve], parameters={"further_tuned": parameters})


PARTS: dict[str, Callable[[Context], Part]] = {
    "specialists": measure_specialists,
    "stage1": train_stage1,
    "stage2": train_stage2,
    "further_tuned": train_further,
    "uniform_stage2": train_uniform,
}
# Two processes side by side, about equally long; within a lane a part may use what an earlier one stored.
LANES = (("stage1", "stage2"), ("specialists", "further_tuned", "uniform_stage2"))


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
    context: Context, model: Any, stage: StageConfig, phase: str, weights: Sequence[float] | None = None
) -> Curve:
    from ultrafuser.demo.callback import StepReport
    from ultrafuser.training import run_stages

    names = model.config.specialist_names
    result = run_stages(
        model,
        context.material.tokenizer,
        [stage],
        context.material.dataset("train", names),
        context.material.dataset("validation", names),
        context.work(phase),
        seed=context.plan.seed,
        callbacks=[StepReport(phase, context.report)],
        forced_gate_weights=weights,
    )
    return curve_from_history(phase, result.history)


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
    context: Context, model: Any, split: str, label: str, weights: Sequence[float] | None = None
) -> list[Item]:
    from ultrafuser.training import evaluate_response_loss

    dataset = context.material.dataset(split, model.config.specialist_names)
    phase = f"measure: {label}"
    context.report(phase, 0, len(dataset), None)
    found = evaluate_response_loss(
        model,
        dataset,
        gate_weights=weights,
        batch_size=context.plan.batch_size,
        progress=lambda done, total: context.report(phase, done, total, None),
    )
    return [
        Item(id=id_, category=category, n_tokens=int(n), loss_sum=float(total), weights=[float(w) for w in mean])
        for id_, category, total, n, mean in found.per_example
    ]


def _equal(names: Sequence[str]) -> list[float]:
    return [1 / len(names)] * len(names)


def _parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _gate_file(context: Context) -> Path:
    path = context.folder / "work" / "gate.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
