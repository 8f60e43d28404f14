"""The recipe: one strict YAML file that says what is fused, how, on what, and where the result goes."""

from ultrafuser.recipe.errors import Problem, RecipeError
from ultrafuser.recipe.load import load_recipe, load_strict, parse_recipe
from ultrafuser.recipe.models import Recipe, json_schema, paper_stages
from ultrafuser.recipe.parts import DomainData, FusionConfig, GateConfig, SpecialistSource, StageConfig
from ultrafuser.recipe.paths import has_scheme, is_hub_model

__all__ = [
    "DomainData",
    "FusionConfig",
    "GateConfig",
    "Problem",
    "Recipe",
    "RecipeError",
    "SpecialistSource",
    "StageConfig",
    "has_scheme",
    "is_hub_model",
    "json_schema",
    "load_recipe",
    "load_strict",
    "paper_stages",
    "parse_recipe",
]
