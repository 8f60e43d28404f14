"""The parts of a recipe: a specialist, the gate, the fusion rule, the data of a domain, a stage of training."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ultrafuser.recipe.paths import HUB_ID, has_scheme, is_gguf_path, is_hub_model

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
DEVICE = r"^(cpu|mps|xpu(:\d+)?|cuda(:\d+)?)$"
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
    """A folder (of a model or a PEFT adapter), .gguf file, zoo:NAME, or with a revision a Hub id (owner/name)."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model (main, or better a commit: it makes the recipe repeatable)."""
    base: Annotated[str, Field(min_length=1)] | None = None
    """Where the source is an adapter: the model it sits on, written like a source; null: what the adapter names."""
    base_revision: str | None = None
    """Branch, tag or commit where the base is a Hub model; without one, a base is a folder or file."""
    template: str | None = None
    """Name of a shipped template, path of a .jinja file, or null for the tokenizer's own chat template."""
    dtype: Dtype | None = None
    """Number format of this specialist's weights; null takes the recipe's."""
    device: Annotated[str, Field(pattern=DEVICE)] | None = None
    """Where this specialist lies and computes: cpu, mps, cuda, cuda:1, ...; null takes the recipe's."""
    quantisation: Literal["int8", "int4"] | None = None
    """Keep the weights of its linear layers as 8-bit or 4-bit integers; they cannot learn. Null keeps the dtype."""

    @model_validator(mode="after")
    def _source_and_revision(self) -> "SpecialistSource":
        if self.revision is not None and has_scheme(self.source):
            raise ValueError(f"revision: {self.revision!r} given for {self.source!r}, which has none; remove it")
        if self.revision is not None and is_gguf_path(self.source):
            raise ValueError(f"revision: {self.revision!r} given for the file {self.source!r}; remove it")
        if self.revision is not None and not HUB_ID.fullmatch(self.source):
            raise ValueError(
                f"source: {self.source!r} is not the id of a Hub model (owner/name); for a folder, remove the revision"
            )
        return self

    @model_validator(mode="after")
    def _base_and_revision(self) -> "SpecialistSource":
        base, revision = self.base, self.base_revision
        if base is None and revision is not None:
            raise ValueError(f"base_revision: {revision!r} given without a base; name the base too, or remove it")
        if base is None:
            return self
        if is_gguf_path(self.source) or has_scheme(self.source):
            raise ValueError(
                f"base: {base!r} given, but {self.source!r} is a complete model, not an adapter; remove the base"
            )
        if revision is not None and (has_scheme(base) or is_gguf_path(base)):
            raise ValueError(f"base_revision: {revision!r} given for the base {base!r}, which has none; remove it")
        if revision is not None and not HUB_ID.fullmatch(base):
            raise ValueError(
                f"base: {base!r} is not the id of a Hub model (owner/name); for a folder, remove the base_revision"
            )
        return self

    @property
    def is_hub(self) -> bool:
        """Whether the source is a Hub id: exactly when a revision is given."""
        return is_hub_model(self.source, self.revision)


WITHOUT_INNER_LAYER = ("constant", "answer")  # gates that take no hidden_size


class GateConfig(Strict):
    """The gate: from hidden states to one weight per specialist and token."""

    type: Literal["token", "joint", "evidence", "constant", "answer"] = "token"
    """token: the paper's; joint: all states; evidence: how sure each is; constant: fixed; answer: decides once."""
    hidden_size: Count = 512
    """Width of the gate's inner layer; the paper's is 512. A constant gate and an answer gate have none."""
    projection_size: Count | None = None
    """Width that a token gate reads where specialists differ in width; null takes the narrowest's."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """What the gate's numbers are divided by before the softmax: below 1 its weights are sharper, above 1 more even."""
    learn_temperature: bool = False
    """Whether the temperature learns with the gate, from `temperature` on."""

    @model_validator(mode="after")
    def _no_inner_layer(self) -> "GateConfig":
        if self.type not in ("token", "evidence") and self.projection_size is not None:
            raise ValueError(
                f"projection_size: {self.projection_size} given, but a {self.type} gate projects nothing; remove it"
            )
        if self.type in WITHOUT_INNER_LAYER and "hidden_size" in self.model_fields_set:
            raise ValueError(
                f"hidden_size: {self.hidden_size} given, but a {self.type} gate has no inner layer; remove it"
            )
        return self

    @model_serializer(mode="wrap")
    def _options(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what the gate's class takes, and a temperature where there is one."""
        data: dict[str, Any] = handler(self)
        if self.type in WITHOUT_INNER_LAYER:
            data.pop("hidden_size", None)
        if self.projection_size is None:
            data.pop("projection_size", None)
        for name in ("temperature", "learn_temperature"):
            if data[name] == type(self).model_fields[name].default:
                data.pop(name)
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
    warmup_steps: CountOrZero = 0
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
    eval_every: CountOrZero = 0
    """Steps between evaluations on the validation data; 0 evaluates at the end of the stage only."""
    save_every: CountOrZero = 100
    """Steps between checkpoints to resume from; 0 saves at the end of the stage only."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logging_steps: Count = 10
    """Steps between log lines."""
    stored_states: Literal["exact", "bfloat16"] | None = None
    """With train: gate: run the specialists once, learn from their stored states, exact or bfloat16 (half the size)."""

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
        if self.stored_states is not None and self.train != "gate":
            raise ValueError(
                f"stored_states: {self.stored_states!r} given, but train: {self.train} changes the specialists, so "
                "their hidden states do not stay; use train: gate, or remove stored_states"
            )
        return self
