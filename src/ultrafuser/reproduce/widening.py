"""Runs about the number of domains: fused models of any set of specialists, and a trio that gets a fourth one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ultrafuser import zoo
from ultrafuser.hashing import content_hash
from ultrafuser.recipe import DomainData, SpecialistSource, StageConfig
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.experiments import START, cost_of, curve, fused_run, train_fused, training_cost
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run

THREE, AS_IS, KEPT, NEW = "three", "as_is", "kept_gate", "new_gate"


@dataclass(frozen=True)
class Newcomer:
    """A specialist that the plan's fused model does not have, with conversations of its domain."""

    name: str
    source: str
    train: str
    heldout: str


DNA = Newcomer("dna", "zoo:dna", "zoo-sample:dna/train", "zoo-sample:dna/heldout")


def newcomer(plan: Plan) -> Newcomer | None:
    """The fourth specialist of the shipped trio; None beside other specialists, whose vocabulary it does not share."""
    shipped = [f"zoo:{name}" for name in zoo.SPECIALISTS]
    return DNA if [one["source"] for one in plan.recipe["specialists"].values()] == shipped else None


def specialists_alone_run(plan: Plan) -> Run:
    """Every specialist alone, the newcomer among them: result["items"] by name."""
    return Run("domains-specialists", read_alone, _with(plan, {}), cost=START + 6.0)


def set_run(plan: Plan, names: Sequence[str], seed: int) -> Run:
    """A fused model of these specialists alone, trained on their domains in the plan's stages, read in every domain."""
    inputs = {"names": list(names), "seed": seed, "stages": plan.recipe["stages"], "keep": plan.keep}
    cost = training_cost(plan, plan.recipe["stages"], len(names)) * len(names) / len(plan.domains)
    return Run(f"domains-{'+'.join(names)}/seed-{seed}", train_set, _with(plan, inputs), cost=cost)


def grow_run(plan: Plan, seed: int) -> Run:
    """The plan's fused model given the newcomer: items "three" before, "as_is" with the gate that it had, "kept_gate"
    after that gate has learned in a gate stage, "new_gate" after one drawn anew has.
    """
    before = fused_run(plan, seed)
    inputs = {"seed": seed, "stage": plan.recipe["stages"][0], "keep": plan.keep, "before": before.name}
    cost = 2 * training_cost(plan, [plan.recipe["stages"][0]], len(plan.specialists) + 1)
    return Run(f"domains-grown/seed-{seed}", grow, _with(plan, inputs), after=(before,), cost=cost)


def read_alone(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Held-out items of every domain as each specialist reads them in its own template."""
    wide, extra = _widened(context, inputs)
    members = [*context.plan.specialists, *([extra.name] if extra else [])]
    recipe = context.plan.open_recipe(changes=_changes(wide.plan, members, extra))
    model, tokenizer = wide.build(recipe)
    names = list(model.config.specialist_names)
    alone = {name: [float(name == other) for other in names] for name in names}
    return {"items": wide.measure(model, tokenizer, "the specialists", alone), "specialists": names}


def train_set(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Train and measure as `train_fused` does, with these specialists and their domains in the place of the plan's."""
    wide, extra = _widened(context, inputs)
    changes = _changes(wide.plan, inputs["names"], extra)
    return train_fused(wide, {**inputs, "changes": changes, "weights": None}, found)


def grow(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Add the newcomer to a trained fused model and let only its gate learn, as it is and drawn anew."""
    from ultrafuser.modeling import UltraFuserForCausalLM, add_specialist, save_fused
    from ultrafuser.modeling.specialists import open_tokenizer, resolve
    from ultrafuser.training import run_stages
    from ultrafuser.training.step_report import StepReport

    wide, extra = _widened(context, inputs)
    assert extra is not None
    members = [*context.plan.specialists, extra.name]
    recipe = context.plan.open_recipe(inputs["seed"], _changes(wide.plan, members, extra))
    place = context.path_of(found[inputs["before"]])
    three, tokenizer = UltraFuserForCausalLM.from_pretrained(place), open_tokenizer(resolve(place))
    items = wide.measure(three, tokenizer, "three", {THREE: None})
    stage, curves, made = StageConfig(**inputs["stage"]), {}, {}
    material = None
    for name in (KEPT, NEW):
        model = add_specialist(three, extra.name, zoo.resolve_source(extra.source))
        material = material or wide.material(recipe, model.config.templates, tokenizer)
        if name == KEPT:
            items |= wide.measure(model, tokenizer, "four, gate as it was", {AS_IS: None})
        else:
            model.gate.reset_parameters(inputs["seed"])
        result = run_stages(
            model,
            tokenizer,
            [stage],
            material.train,
            material.validation,
            context.folder / name,
            seed=inputs["seed"],
            callbacks=[StepReport([f"train {name}"], context.report)],
            keep=inputs["keep"],
            eval_batch_size=wide.plan.batch_size,
            tensorboard=False,
            overwrite=True,
        )
        items |= wide.measure(model, tokenizer, name, {name: None})
        curves[name], made[name] = curve(result.history, stage.name), cost_of(model, [stage], material.train, 0)
        save_fused(model, tokenizer, context.folder / name, overwrite=True)
    return {"items": items, "curves": curves, "made": made, "folder": context.relative(context.folder / KEPT)}


def _with(plan: Plan, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs and the newcomer, with the content of its model and data, which no other table's runs depend on."""
    extra = newcomer(plan)
    if extra is None:
        return {**inputs, "newcomer": None}
    digest = sha256(content_hash(Path(zoo.resolve_source(extra.source))).encode())
    for entry in (extra.train, extra.heldout):
        digest.update(Path(zoo.resolve_data(entry)).read_bytes())
    return {**inputs, "newcomer": asdict(extra), "digest": digest.hexdigest()[:16]}


def _widened(context: Context, inputs: dict[str, Any]) -> tuple[Context, Newcomer | None]:
    """The context whose held-out items include the newcomer's domain, and the newcomer."""
    if inputs["newcomer"] is None:
        return context, None
    extra = Newcomer(**inputs["newcomer"])
    plan = context.plan.model_copy(update={"extra": {**context.plan.extra, extra.name: [extra.heldout]}})
    return replace(context, plan=plan, _materials={}, _settings={}, _heldout=[]), extra


def _changes(plan: Plan, names: Sequence[str], extra: Newcomer | None) -> dict[str, Any]:
    """The recipe's fields for these specialists, each with the data of its domain."""
    specialists, data = dict(plan.recipe["specialists"]), dict(plan.recipe["data"])
    if extra is not None:
        size = plan.settings
        specialists[extra.name] = SpecialistSource(source=extra.source).model_dump(mode="json")
        data[extra.name] = DomainData(
            train=[extra.train],
            heldout=[extra.heldout],
            validation_fraction=size.validation_share,
            limit=size.train_limit,
        ).model_dump(mode="json")
    return {
        "specialists": {name: specialists[name] for name in names},
        "data": {name: data[name] for name in names},
        "tokenizer": None,
    }
