"""The spec: what is synthesised, how much of it, by which endpoints, within which budget.

Strict like a recipe: an unknown key, a wrong type or a contradiction fails at construction, naming field and fix.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ultrafuser.recipe import load_strict
from ultrafuser.recipe.parts import Count, CountOrZero, Name, Strict
from ultrafuser.recipe.paths import absolute_path

__all__ = ["Budget", "Counts", "EndpointSpec", "FilterSpec", "Generation", "Responses", "Spec", "Turns", "load_spec"]

Reviewed = Literal["meta_topics", "sub_topics"]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Price = Annotated[float, Field(ge=0)]


class Counts(Strict):
    """How much is made of each thing, per domain."""

    meta_topics: CountOrZero = 10
    """Meta-topics of the domain; the paper has 30 for text, 21 for code and for math. 0: imported instructions only."""
    sub_topics: Count = 8
    """Sub-topics of each meta-topic."""
    instructions: Count = 5
    """Instructions for each sub-topic."""
    expansion: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Further instructions made by in-context learning, as a multiple of those made from sub-topics; 0 makes none."""
    complicated: Share = 0.3
    """Share of the instructions rewritten to be more complex; the paper's is 0.3."""
    batch: Annotated[int, Field(ge=1, le=50)] = 5
    """How many items one request asks for: large models manage 10 to 20, small ones about 5."""


class EndpointSpec(Strict):
    """An OpenAI-compatible endpoint."""

    base_url: Annotated[str, Field(min_length=1)]
    """Address, for example http://localhost:8080/v1."""
    model: str | None = None
    """Name of the model; null takes the only one that the endpoint lists."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Requests under way at a time."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Rate limit; null sets none."""
    input_price: Price = 0.0
    """Price of a million prompt tokens."""
    output_price: Price = 0.0
    """Price of a million tokens written."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that one request may take."""
    retries: CountOrZero = 6
    """Retries of a request that fails on its way (429, 5xx, time-outs, lost connections)."""
    structured: bool = True
    """Ask for JSON by a schema where lists are wanted; an endpoint that refuses is asked without one."""


class Budget(Strict):
    """Caps over the whole life of the output folder; null sets none. At a cap the run stops, to be resumed higher."""

    requests: Count | None = None
    """Answered requests."""
    tokens: Count | None = None
    """Tokens of prompts and replies together, as the endpoints count them."""
    money: Annotated[float, Field(gt=0)] | None = None
    """Money, in the unit of the endpoints' prices."""


class Generation(Strict):
    """Sampling of topics and instructions."""

    max_tokens: Count = 1024
    """Longest reply, in tokens."""
    temperature: Temperature = 0.9
    """Temperature: high for variety."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus that tokens are drawn from."""


class Responses(Strict):
    """Sampling of responses."""

    max_tokens: Count = 1024
    """Longest response, in tokens; one that does not end by itself is not kept."""
    temperature: Temperature = 0.7
    """Temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus that tokens are drawn from."""
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    """Responses per instruction: more than one lets answers be compared, the first kept one is used."""


class Turns(Strict):
    """Further turns, in which a model plays the user."""

    extra: Annotated[int, Field(ge=0, le=20)] = 0
    """Question and answer pairs after the first one; 0 makes none."""
    share: Share = 1.0
    """Share of the conversations that get further turns."""


class FilterSpec(Strict):
    """A filter and its options; a name alone stands for the filter as it usually is."""

    name: Annotated[str, Field(min_length=1)]
    """Name of a row of FILTERS."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that filter."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


def _reviewed() -> list[Reviewed]:
    return ["meta_topics"]


class Spec(Strict):
    """A whole synthesis. Paths are relative to the spec's folder; `load_spec` makes them absolute."""

    name: Name
    """Name of the data set."""
    domains: Annotated[list[str], Field(min_length=1)]
    """Shipped domains (text, code, math) by name, or paths of domain files."""
    counts: Counts = Counts()
    """How much is made, per domain."""
    domain_counts: dict[Name, Counts] = Field(default_factory=dict)
    """Counts of single domains, in place of `counts`."""
    endpoints: Annotated[list[EndpointSpec], Field(min_length=1)]
    """The endpoints that are asked, side by side."""
    budget: Budget = Budget()
    """Caps on requests, tokens and money."""
    generation: Generation = Generation()
    """How topics and instructions are sampled."""
    responses: Responses = Responses()
    """How responses are sampled."""
    turns: Turns = Turns()
    """Further turns of conversations."""
    filters: list[FilterSpec] = Field(default_factory=list)
    """What must hold of records, in this order."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """How often a request is made when its replies cannot be used (malformed, cut off, refused)."""
    seed: CountOrZero = 0
    """Seed of everything drawn, and of the seeds sent with requests."""
    output: Annotated[str, Field(min_length=1)] = "runs/synth"
    """Folder of the journal, the review files and the export."""
    review: list[Reviewed] = Field(default_factory=_reviewed)
    """Steps after which a run stops for a person to edit what was made."""

    _folder: Path | None = PrivateAttr(default=None)

    @field_validator("domains")
    @classmethod
    def _once(cls, domains: list[str]) -> list[str]:
        for i, name in enumerate(domains):
            if name in domains[:i]:
                raise ValueError(f"[{i}]: {name!r} is listed twice; remove one of them")
        return domains

    @model_validator(mode="after")
    def _priced(self) -> Spec:
        free = all(one.input_price == 0 and one.output_price == 0 for one in self.endpoints)
        if self.budget.money is not None and free:
            raise ValueError(
                f"budget.money: {self.budget.money:g} is a cap, but no endpoint has a price; "
                "give input_price and output_price, or cap tokens"
            )
        return self

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from: the spec file's, or the current one."""
        return self._folder if self._folder is not None else Path.cwd()

    @property
    def output_folder(self) -> Path:
        """Where everything is written."""
        return Path(absolute_path(self.output, self.folder))

    def counts_of(self, domain: str) -> Counts:
        """The counts that hold for a domain."""
        return self.domain_counts.get(domain, self.counts)

    def plan_print(self, domains: str) -> str:
        """A hash of what decides the requests; `domains` stands for the content of the domains."""
        kept = ("domain_counts", "counts", "generation", "responses", "turns", "filters", "seed")
        line = json.dumps([self.model_dump(include=set(kept)), domains], sort_keys=True)
        return hashlib.sha256(line.encode()).hexdigest()[:20]


def load_spec(path: str | Path) -> Spec:
    """The spec in a YAML file. Raises RecipeError with file, line, field, value and fix for every mistake."""
    spec = load_strict(path, Spec, "spec", f"`ultrafuser synth init {path}` writes one to start from")
    spec._folder = Path(path).expanduser().absolute().parent
    return spec
