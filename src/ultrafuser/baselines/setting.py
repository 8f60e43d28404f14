"""What every baseline starts from and what it gives back: one setting, so that methods differ in the method alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ultrafuser.recipe import Recipe, StageConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

    from ultrafuser.baselines.scores import Scores
    from ultrafuser.modeling.specialists import Origin
    from ultrafuser.training.material import Conversations, Material

__all__ = ["Baseline", "Made", "Setting"]

Resolve = Callable[[str], str]
ZOO, ZOO_BASE = "zoo:", "zoo:base"


@dataclass(frozen=True)
class Setting:
    """The specialists, data, stages and seed of a recipe as a baseline sees them, and the folder that it fills.

    Make one with `from_recipe`; `into` gives the same setting for another baseline's folder, with the data read once.
    Every trained comparator uses `stage` (the recipe's own examples per step, schedule and loss) for `steps` steps and
    `encoded` (the recipe's own conversations, in whatever templates it reads).
    """

    recipe: Recipe
    folder: Path
    """Where the model goes; checkpoints lie in `folder`/work."""
    origins: Mapping[str, Origin]
    """Where each specialist lies, in the recipe's order."""
    base: Origin | None
    """The model that all specialists were trained from, or None where nobody named it."""
    tokenizer: Any
    templates: Mapping[str, str]
    """Jinja source of each specialist's template."""
    conversations: Conversations
    """Training, validation and held-out conversations as text, before any is left out as too long."""
    material: Material
    """The same in the specialists' templates, as a fused model of all trains on it. It decides what is too long."""
    steps: int
    """Optimiser steps of a trained comparator; by default the sum of the recipe's stages (the paper's equal steps)."""
    operations: int | None = None
    """Training operations to spend in place of `steps`: a comparator of equal cost takes `budget.fusing_operations`."""
    seed: int = 0
    variant: str = ""
    """What stands behind the colon in `further-tuned:code`; "" where nothing does."""
    keep: Literal["last", "best"] = "last"
    """Which weights a stage hands on: its last, or those of its best validation loss."""
    device: str = "cpu"
    overwrite: bool = False
    say: Callable[[str], None] = lambda message: None
    callbacks: Sequence[TrainerCallback] = ()

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        folder: str | Path,
        *,
        variant: str = "",
        base: str | Path | None = None,
        seed: int | None = None,
        steps: int | None = None,
        resolve: Resolve = str,
        resolve_data: Resolve = str,
        **options: Any,
    ) -> Setting:
        """Find the specialists, read the data, encode it. No weights are opened.

        `resolve` and `resolve_data` turn `zoo:text` and `zoo-sample:text/train` into places, as for `train_recipe`.
        `base` names the common base; where all specialists are the zoo's it is zoo:base. `seed` and `steps` replace the
        recipe's; `options` are `operations`, `keep`, `overwrite`, `say`, `callbacks`. Raises ValueError naming field
        and fix: where a specialist or template is missing, tokenizers differ, the recipe has no stages or no data.
        """
        from ultrafuser.modeling.specialists import open_tokenizer
        from ultrafuser.modeling.specialists import resolve as find
        from ultrafuser.modeling.vocabulary import check_tokens
        from ultrafuser.templates import load_template
        from ultrafuser.training.material import encode, read_conversations
        from ultrafuser.training.recipe_run import pick_device

        if not recipe.stages:
            raise ValueError("stages: the recipe has none; they say how long and at which rate comparators train")
        if steps is not None and steps < 1:
            raise ValueError(f"--steps: {steps} is below 1")
        origins, templates, tokenizers = {}, {}, {}
        for name, spec in recipe.specialists.items():
            where = f"specialists.{name}"
            origins[name] = find(spec.source if spec.is_hub else resolve(spec.source), spec.revision, f"{where}.source")
            tokenizers[name] = open_tokenizer(origins[name], f"{where}.source")
            templates[name] = load_template(spec.template, tokenizers[name], field=f"{where}.template")
        check_tokens(tokenizers)
        if base is None and all(spec.source.startswith(ZOO) for spec in recipe.specialists.values()):
            base = ZOO_BASE
        conversations = read_conversations(recipe, resolve_data)
        tokenizer = tokenizers[recipe.tokenizer_name]
        return cls(
            recipe=recipe,
            folder=Path(folder),
            origins=origins,
            base=None if base is None else find(resolve(str(base)), None, "--base"),
            tokenizer=tokenizer,
            templates=templates,
            conversations=conversations,
            material=encode(conversations, recipe, list(templates.values()), tokenizer),
            steps=sum(stage.steps for stage in recipe.stages) if steps is None else steps,
            seed=recipe.seed if seed is None else seed,
            variant=variant,
            device=pick_device(recipe.device),
            **options,
        )

    def into(self, folder: str | Path, variant: str = "", **changes: Any) -> Setting:
        """The same setting with another folder and variant, for another baseline; `changes` replace further fields."""
        return replace(self, folder=Path(folder), variant=variant, **changes)

    # ---- specialists ----

    @property
    def names(self) -> list[str]:
        """Names of the specialists, in order."""
        return list(self.origins)

    @property
    def domains(self) -> list[str]:
        """Names of the domains of the training data, in order."""
        return list(self.material.train.categories)

    @property
    def template(self) -> str:
        """Template of a comparator that is one plain model with none of its own: that of the recipe's `tokenizer`,
        else of the first specialist (of the zoo: text's)."""
        return self.templates[self.recipe.tokenizer_name]

    def open(self, name: str) -> PreTrainedModel:
        """A specialist with its weights in the recipe's number format, on its device. Raises ValueError if unknown.

        Quantisation that the recipe asks for is left out: what a comparator is made of must be able to learn.
        """
        from ultrafuser.lookup import lookup
        from ultrafuser.modeling import open_specialist

        origin, spec = lookup(self.origins, name, "specialist"), self.recipe.specialists[name]
        return open_specialist(
            origin.path,
            dtype=spec.dtype or self.recipe.dtype,
            device=spec.device or self.device,
            field=f"specialists.{name}.source",
        )

    def open_base(self) -> PreTrainedModel:
        """The common base, opened as a specialist is. Raises ValueError where none is known."""
        from ultrafuser.modeling import open_specialist

        return open_specialist(self.need_base().path, dtype=self.recipe.dtype, device=self.device, field="--base")

    def need_base(self) -> Origin:
        """Where the common base lies. Raises ValueError where none is known."""
        if self.base is None:
            raise ValueError(
                "--base: this baseline starts from the model that all specialists were trained from, and the recipe "
                "does not say which; name its folder"
            )
        return self.base

    def fuse(
        self, specialists: Mapping[str, Any], templates: Mapping[str, str], kind: Any = None, **options: Any
    ) -> Any:
        """A fused model of opened models (of one: how a plain model trains), of the subclass `kind`; `options` go to
        `from_specialists`. Its vocabulary is the tokenizer's, however the models' tables are padded, so that losses
        compare. The models stay on the devices that they are on."""
        from ultrafuser.modeling import UltraFuserForCausalLM

        settings = {"seed": self.seed, "vocab_size": 1 + max(self.tokenizer.get_vocab().values())} | options
        return (kind or UltraFuserForCausalLM).from_specialists(specialists, templates=templates, **settings)

    # ---- data ----

    def encoded(self, templates: Sequence[str], domains: Sequence[str] | None = None) -> Material:
        """The conversations of `material` and no others, in other templates; of these `domains` only, in training.

        Validation and held-out data keep every domain, so that figures compare.
        """
        from ultrafuser.baselines.encoding import encoded

        return encoded(self, templates, domains)

    # ---- stages ----

    @property
    def fused_stages(self) -> list[StageConfig]:
        """The recipe's own stages, for a comparator that is fused too; the last is cut or prolonged to make up `steps`.

        Raises ValueError where the stages before the last take all steps.
        """
        *before, last = self.recipe.stages
        left = self.steps - sum(stage.steps for stage in before)
        if left < 1:
            raise ValueError(
                f"--steps: {self.steps} leaves none for the recipe's last stage {last.name!r}, after "
                f"{self.steps - left} of the others; give more"
            )
        settings = last.model_dump() | {"steps": left, "warmup_steps": min(last.warmup_steps, left - 1)}
        return [*before, StageConfig(**settings)]

    def stage(self, name: str, train: str = "specialists", **changes: Any) -> StageConfig:
        """The stage of a comparator: the recipe's last that trains what `train` trains, for `steps` steps.

        `train`: specialists (what a plain model has), all, or gate. Where the recipe has no such stage, its last.
        `changes` replace further fields, such as `steps`, `learning_rate` or `examples_per_category`.
        """
        heavy = train != "gate"
        fitting = [stage for stage in self.recipe.stages if (stage.train != "gate") == heavy]
        model = fitting[-1] if fitting else self.recipe.stages[-1]
        settings = model.model_dump() | {"name": name, "train": train, "steps": self.steps, "stored_states": None}
        settings |= changes
        settings["warmup_steps"] = min(settings["warmup_steps"], settings["steps"] - 1)
        return StageConfig(**settings)

    def fingerprint(self) -> dict[str, Any]:
        """What decides a baseline's result beside its name, as plain JSON."""
        from ultrafuser.training.recipe_run import recipe_fingerprint
        from ultrafuser.training.work import describe_stage

        return {
            "recipe": recipe_fingerprint(self.recipe),
            "stages": [describe_stage(stage) for stage in self.recipe.stages],
            "base": None if self.base is None else self.base.path.name,
            "variant": self.variant,
            "seed": self.seed,
            "steps": self.steps,
            "operations": self.operations,
            "keep": self.keep,
        }


@dataclass
class Made:
    """What making a baseline gave; kept as FOLDER/baseline.json.

    `folder` holds an ordinary model that `eval`, `chat` and `generate` open (for a specialist alone: its own folder),
    or is None for a rule over the specialists, which has `Baseline.score` instead. Counts as in `counting`.
    """

    folder: Path | None
    parameters_trained: int
    parameters_used: int
    """Read for each token; of a sparse model, the active ones."""
    training_operations: int
    """Floating-point operations of the training: 6 per learning and 2 per frozen parameter and token."""
    steps: int
    """Optimiser steps."""
    note: str = ""
    """One sentence on what was done, for a table's footnote."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """What was chosen on the validation data, with the losses that decided."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "folder": None if self.folder is None else str(self.folder)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Made:
        """The inverse of `as_dict`."""
        return cls(**{**data, "folder": None if data["folder"] is None else Path(data["folder"])})


def no_variants(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """The baseline comes in one form only."""
    return ("",)


def plain_form(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """The baseline takes variants, and checks them; a table wants its plain form."""
    return ("",)


@dataclass(frozen=True)
class Baseline:
    """A row of BASELINES.

    `make(setting)` builds, trains (through `run_stages`, so that it goes on after a kill) and saves to
    `setting.folder`; `make_baseline` calls it after checking `needs` and writes baseline.json.
    `needs` lists what must be there: base, validation, heldout, several (specialists), or the name of a package.
    `variants(names, domains)` lists the forms that a table wants, "" being the plain one.
    `score(setting, part)` gives per-example results on "heldout" or "validation"; None means: read the model in
    `Made.folder` (see `scores.measure`). A rule over the specialists must have it.
    `paper` says what the row is in Ding et al. (ACL 2025).
    """

    name: str
    summary: str
    make: Callable[[Setting], Made]
    needs: tuple[str, ...] = ()
    variants: Callable[[Sequence[str], Sequence[str]], tuple[str, ...]] = no_variants
    score: Callable[[Setting, str], Scores] | None = None
    paper: str = ""
