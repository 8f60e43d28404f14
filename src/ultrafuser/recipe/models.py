"""The recipe: what is fused, how, on what data, in which stages, and where the result goes.

Strict: an unknown key, a value of the wrong type or a contradiction fails at construction, as a `RecipeError` that
names the full path of the field, the value and the fix. Defaults are the paper's (Ding et al., ACL 2025, section 4).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from ultrafuser.lookup import did_you_mean
from ultrafuser.recipe.paths import HUB_ID, absolute_path, has_scheme, is_hub_model, is_template_path, portable_path

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Strict(BaseModel):
    """No unknown keys, no conversion of types, no change after construction."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class SpecialistSource(Strict):
    """One specialist: a complete causal language model and the prompt template that it was trained with."""

    source: Annotated[str, Field(min_length=1)]
    """A local folder, zoo:NAME for a shipped model, or, with a revision, the id of a model on the Hub (owner/name)."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model (main, or better a commit: it makes the recipe repeatable)."""
    template: str | None = None
    """Name of a shipped template, path of a .jinja file, or null for the tokenizer's own chat template."""
    dtype: Dtype | None = None
    """Number format of this specialist's weights; null takes the recipe's."""

    @model_validator(mode="after")
    def _source_and_revision(self) -> "SpecialistSource":
        if self.revision is not None and has_scheme(self.source):
            raise ValueError(f"revision: {self.revision!r} given for {self.source!r}, which has none; remove it")
        if self.revision is not None and not HUB_ID.fullmatch(self.source):
            raise ValueError(
                f"source: {self.source!r} is not the id of a Hub model (owner/name); for a folder, remove the revision"
            )
        return self

    @property
    def is_hub(self) -> bool:
        """Whether the source is a Hub id: exactly when a revision is given."""
        return is_hub_model(self.source, self.revision)


class GateConfig(Strict):
    """The gate: from hidden states to one weight per specialist and token."""

    type: Literal["token", "joint", "constant"] = "token"
    """token: the paper's, one network for all; joint: reads all hidden states together; constant: learned weights."""
    hidden_size: Count = 512
    """Width of the gate's inner layer; the paper's is 512. A constant gate has none."""

    @model_validator(mode="after")
    def _no_inner_layer(self) -> "GateConfig":
        if self.type == "constant" and "hidden_size" in self.model_fields_set:
            raise ValueError(
                f"hidden_size: {self.hidden_size} given, but a constant gate has no inner layer; remove it"
            )
        return self

    @model_serializer(mode="wrap")
    def _options(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what the gate's class takes."""
        data: dict[str, Any] = handler(self)
        if self.type == "constant":
            data.pop("hidden_size", None)
        return data


class FusionConfig(Strict):
    """The rule that turns the specialists' predictions and the gate's weights into one prediction."""

    rule: Literal["logits", "probabilities"] = "logits"
    """logits: weighted sum of logits, the paper's; probabilities: weighted mean of probabilities."""
    top_k: Count | None = None
    """Keep only the k largest weights at each token; null keeps all."""


class DomainData(Strict):
    """Data of one domain (category). Entries are files, folders, hub:owner/name, or zoo-sample:DOMAIN/PART."""

    train: Annotated[list[str], Field(min_length=1)]
    """Conversations to learn from: JSONL, JSON, JSONL.gz or Parquet files, a folder of them, or hub:owner/name."""
    validation: list[str] = []
    """Conversations to choose checkpoints on."""
    heldout: list[str] = []
    """Conversations for the final figures; never used for a choice."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of `train` set aside for validation, in place of files under `validation`."""
    limit: Count | None = None
    """Use at most this many training conversations."""

    @model_validator(mode="after")
    def _one_validation(self) -> "DomainData":
        if self.validation and self.validation_fraction is not None:
            raise ValueError("validation and validation_fraction are both given; keep one of them")
        return self


class StageConfig(Strict):
    """One stage of training."""

    name: Name
    """Name of the stage; its checkpoints and its report carry it."""
    train: Literal["gate", "all", "specialists"]
    """What learns: the gate alone, gate and specialists together, or the specialists alone."""
    steps: Count = 400
    """Optimiser steps; the paper's first stage has 400."""
    examples_per_category: Count = 64
    """Conversations of each domain in every optimiser batch; the paper's stages have 64, then 32."""
    accumulation: Count = 1
    """Parts that an optimiser batch is cut into to save memory; must divide examples_per_category."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Largest learning rate. The paper's 2e-5 suits models of billions of parameters; small ones need about 1e-3."""
    warmup_steps: CountOrNone = 0
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    loss: Literal["token_mean", "example_sum"] = "token_mean"
    """token_mean: mean over all response tokens; example_sum: sum over a response, mean over examples (the paper's)."""
    sampler: Literal["balanced", "random"] = "balanced"
    """balanced: the same number of conversations of each domain in every batch; random: as they come."""
    eval_every: CountOrNone = 0
    """Steps between evaluations on the validation data; 0 evaluates at the end of the stage only."""
    save_every: CountOrNone = 100
    """Steps between checkpoints to resume from; 0 saves at the end of the stage only."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logging_steps: Count = 10
    """Steps between log lines."""

    @model_validator(mode="after")
    def _consistent(self) -> "StageConfig":
        if self.examples_per_category % self.accumulation:
            near = max(d for d in range(1, self.accumulation + 1) if self.examples_per_category % d == 0)
            raise ValueError(
                f"accumulation: {self.accumulation} does not divide examples_per_category "
                f"({self.examples_per_category}); {near} does"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} leaves nothing of the stage's {self.steps} steps; lower it"
            )
        return self


def paper_stages() -> list[StageConfig]:
    """The paper's two stages: 400 steps of the gate alone, then 5,000 of everything (section 4; figure 4)."""
    return [
        StageConfig(name="gate", train="gate", steps=400, examples_per_category=64),
        StageConfig(name="all", train="all", steps=5000, examples_per_category=32, save_every=500),
    ]


class Recipe(Strict):
    """A whole run. Paths are relative to the recipe's folder; `load_recipe` makes them absolute."""

    name: Name
    """Name of the fused model."""
    specialists: Annotated[dict[Name, SpecialistSource], Field(min_length=1)]
    """The models to fuse, by a short name of yours."""
    tokenizer: str | None = None
    """Name of the specialist whose tokenizer the fused model takes; null takes the first one's."""
    gate: GateConfig = GateConfig()
    """The gate."""
    fusion: FusionConfig = FusionConfig()
    """The fusion rule."""
    data: dict[Name, DomainData] = {}
    """Training data by domain; every batch holds the same number of conversations of each."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest sequence in tokens, prompt and response together, in the template that makes it longest."""
    on_too_long: Literal["drop", "error"] = "drop"
    """What happens to a conversation over max_length: left out and counted, or an error. Answers are never cut."""
    stages: list[StageConfig] = Field(default_factory=paper_stages)
    """The stages, run one after the other; the paper's two when left out."""
    seed: CountOrNone = 0
    """Seed of the gate, the batches and everything else that is random."""
    dtype: Dtype = "float32"
    """Number format of the weights: float32, bfloat16, float16, or auto for what each specialist is stored in."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|xpu(:\d+)?|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, mps, cuda, cuda:1, ..."""
    output: Annotated[str, Field(min_length=1)] = "runs/fused"
    """Folder that the fused model is written to."""

    _folder: Path | None = PrivateAttr(default=None)

    def __init__(self, **data: Any) -> None:
        from ultrafuser.recipe.errors import RecipeError

        try:
            super().__init__(**data)
        except ValidationError as error:
            raise RecipeError.from_validation(error) from None

    @field_validator("stages")
    @classmethod
    def _stage_names(cls, stages: list[StageConfig]) -> list[StageConfig]:
        names = [stage.name for stage in stages]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ValueError(f"[{i}].name: {name!r} is the name of an earlier stage too; each stage needs its own")
        return stages

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        n = len(self.specialists)
        if self.fusion.top_k is not None and self.fusion.top_k > n:
            raise ValueError(
                f"fusion.top_k: {self.fusion.top_k} specialists asked for, but there are {n} "
                f"({', '.join(self.specialists)}); choose 1 to {n}, or null for all"
            )
        if self.tokenizer is not None and self.tokenizer not in self.specialists:
            raise ValueError(
                f"tokenizer: {self.tokenizer!r} is not one of the specialists {', '.join(self.specialists)}"
                f"{did_you_mean(self.tokenizer, self.specialists)}"
            )
        if self.stages and not self.data:
            raise ValueError(
                "data: there are stages to train but no data; name the training files by domain, or write `stages: []` "
                "for a fused model with an untrained gate"
            )
        if self.stages and len(self.data) == 1:
            raise ValueError(
                f"data: {next(iter(self.data))!r} is the only domain; a gate learns to tell domains apart, so give at "
                "least two"
            )
        return self

    @property
    def tokenizer_name(self) -> str:
        """The specialist whose tokenizer the fused model takes."""
        return self.tokenizer if self.tokenizer is not None else next(iter(self.specialists))

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from: the recipe file's, or the current one."""
        return self._folder if self._folder is not None else Path.cwd()

    def absolute(self, folder: Path) -> "Recipe":
        """A copy with every relative local path starting from `folder`."""
        return self._with_paths(lambda path: absolute_path(path, folder), folder)

    def portable(self, *, public: bool = False) -> "Recipe":
        """A copy with paths inside the recipe's folder made relative again; `public` hides all other local paths."""
        return self._with_paths(lambda path: portable_path(path, self.folder, public=public), None)

    def _with_paths(self, change: Callable[[str], str], folder: Path | None) -> "Recipe":
        data = self.model_dump()
        data["output"] = change(data["output"])
        for specialist in data["specialists"].values():
            if not has_scheme(specialist["source"]) and specialist["revision"] is None:
                specialist["source"] = change(specialist["source"])
            if is_template_path(specialist["template"]):
                specialist["template"] = change(specialist["template"])
        for domain in data["data"].values():
            for part in ("train", "validation", "heldout"):
                domain[part] = [entry if has_scheme(entry) else change(entry) for entry in domain[part]]
        copy = Recipe(**data)
        copy._folder = folder
        return copy

    def dump_yaml(self, *, public: bool = False) -> str:
        """The recipe as YAML that `load_recipe` reads back; `public` leaves out where files lie on this machine."""
        from ultrafuser.recipe.yaml_text import dump

        return dump(self.portable(public=public).model_dump())


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors (`# yaml-language-server: $schema=...`)."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    schema["title"] = "UltraFuser recipe"
    return schema
