"""The recipe: what is fused, how, on what data, in which stages, and where the result goes.

Strict: an unknown key, a value of the wrong type or a contradiction fails at construction, as a `RecipeError` that
names the full path of the field, the value and the fix. Defaults are the paper's (Ding et al., ACL 2025, section 4).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from ultrafuser.lookup import did_you_mean
from ultrafuser.recipe.parts import (
    CountOrZero,
    DomainData,
    Dtype,
    FusionConfig,
    GateConfig,
    Name,
    SpecialistSource,
    StageConfig,
    Strict,
)
from ultrafuser.recipe.paths import absolute_path, has_scheme, is_template_path, portable_path


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
    data: dict[Name, DomainData] = Field(default_factory=dict)
    """Training data by domain; every batch holds the same number of conversations of each."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest sequence in tokens, prompt and response together, in the template that makes it longest."""
    on_too_long: Literal["drop", "error"] = "drop"
    """What happens to a conversation over max_length: left out and counted, or an error. Answers are never cut."""
    stages: list[StageConfig] = Field(default_factory=paper_stages)
    """The stages, run one after the other; the paper's two when left out."""
    seed: CountOrZero = 0
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
            base = specialist["base"]
            if base is not None and not has_scheme(base) and specialist["base_revision"] is None:
                specialist["base"] = change(base)
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
