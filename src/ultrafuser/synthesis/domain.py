"""A domain: what instructions are made about, as a data file with guidance, examples and prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field, field_validator

from ultrafuser.lookup import did_you_mean
from ultrafuser.recipe import load_strict
from ultrafuser.recipe.parts import Name, Strict
from ultrafuser.recipe.paths import absolute_path
from ultrafuser.recipe.yaml_text import parse
from ultrafuser.synthesis.domains import PROMPTS_FILE, domain_names, shipped
from ultrafuser.synthesis.spec import Spec

__all__ = ["Domain", "Example", "Guidance", "domains_print", "load_domain", "open_domains"]

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]


class Guidance(Strict):
    """What the shared prompts say for this domain in particular."""

    meta_topics: Text
    """Where to look for meta-topics."""
    sub_topics: Text
    """What sub-topics must be like."""
    instructions: Text
    """What an instruction must be like."""
    complication: Text
    """What must still hold of an instruction that was made more complex."""
    responses: Text
    """System message for responses: how to answer."""
    user_turn: Text
    """What the user of further turns shall keep to."""


class Example(Strict):
    """An example of every stage, made by hand."""

    topic: Text
    """A meta-topic."""
    sub_topic: Text
    """A sub-topic of it."""
    relevance: Text
    """Why the sub-topic matters, in one or two sentences."""
    use_case: Text
    """A situation in which somebody needs it."""
    instruction: Text
    """An instruction about it."""


class Domain(Strict):
    """One domain."""

    name: Name
    """Name of the domain; records carry it as their category."""
    title: Text
    """What it is called in the middle of a sentence, for example "programming"."""
    about: Text
    """What belongs to it, as the end of a sentence."""
    guidance: Guidance
    """What the shared prompts say for this domain."""
    kinds: Texts
    """Kinds of instructions; each request is given a few of them."""
    levels: Texts
    """Levels of difficulty; each request is given one."""
    ways: Texts
    """Ways to make an instruction more complex; each request is given two."""
    user_ways: Texts
    """What the user of further turns may do next; each request is given one."""
    examples: Annotated[list[Example], Field(min_length=2)]
    """At least two examples, shown where a form has to be made clear."""
    checks: list[Text] = Field(default_factory=list)
    """Names of filters that suit this domain's responses."""
    prompts: dict[str, Text] = Field(default_factory=dict)
    """Prompts in place of the shared ones, by stage."""

    @field_validator("prompts")
    @classmethod
    def _usable(cls, prompts: dict[str, str]) -> dict[str, str]:
        for stage, source in prompts.items():
            if stage not in _shared_prompts():
                raise ValueError(
                    f"{stage!r} is no stage; there are {', '.join(_shared_prompts())}"
                    f"{did_you_mean(stage, _shared_prompts())}"
                )
            try:
                _environment().from_string(source)
            except TemplateSyntaxError as error:
                raise ValueError(f"{stage}: line {error.lineno} is no Jinja: {error.message}") from None
        return prompts

    def prompt(self, stage: str, **given: Any) -> str:
        """The prompt of a stage. Raises ValueError where the template uses what this stage does not give."""
        source = self.prompts.get(stage) or _shared_prompts()[stage]
        try:
            return _template(source).render(domain=self, **given).strip()
        except TemplateError as error:
            raise ValueError(
                f"prompts.{stage} of domain {self.name}: {error}; it may use domain, {', '.join(given)}"
            ) from None


def load_domain(name: str, folder: Path) -> Domain:
    """A shipped domain by name, or the one in a file, whose path starts from `folder`."""
    if name in domain_names():
        file = Path(str(shipped(f"{name}.yaml")))
    elif name.endswith((".yaml", ".yml")) or "/" in name:
        file = Path(absolute_path(name, folder))
    else:
        raise ValueError(
            f"domains: {name!r} is not one of {', '.join(domain_names())}{did_you_mean(name, domain_names())}; "
            "a domain file of your own is written as a path that ends in .yaml"
        )
    return load_strict(file, Domain, "domain file", "docs/synthesis.md shows how to write one")


def open_domains(spec: Spec) -> list[Domain]:
    """The domains of a spec, in its order. Raises ValueError for unknown ones and for names that come twice."""
    found: dict[str, Domain] = {}
    for i, name in enumerate(spec.domains):
        domain = load_domain(name, spec.folder)
        if domain.name in found:
            raise ValueError(f"domains[{i}]: {name!r} is named {domain.name}, as another one is; rename one of them")
        found[domain.name] = domain
    for name in spec.domain_counts:
        if name not in found:
            raise ValueError(
                f"domain_counts: {name!r} is not one of the domains {', '.join(found)}{did_you_mean(name, found)}"
            )
    return list(found.values())


def domains_print(domains: list[Domain]) -> str:
    """A hash of the domains' content, prompts included."""
    content: list[Any] = [domain.model_dump() for domain in domains]
    return hashlib.sha256(json.dumps([content, dict(_shared_prompts())], sort_keys=True).encode()).hexdigest()[:20]


@cache
def _shared_prompts() -> Mapping[str, str]:
    data, _ = parse(shipped(PROMPTS_FILE).read_text(encoding="utf-8"))
    return {str(stage): str(source) for stage, source in data.items()}


@cache
def _environment() -> Environment:
    return SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


@cache
def _template(source: str) -> Any:
    return _environment().from_string(source)
