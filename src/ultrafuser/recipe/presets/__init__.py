"""Recipes to start from, as commented YAML. A new one is one more .yaml file here."""

from importlib import resources

from ultrafuser.lookup import lookup

SCHEMA_FILE = "recipe.schema.json"


def preset_names() -> list[str]:
    """Names of the recipes that `ultrafuser init` can write."""
    return sorted(_files())


def preset(name: str, *, schema: str = SCHEMA_FILE) -> str:
    """The text of a recipe, with the line that tells editors where its schema lies. ValueError for no such name."""
    text = lookup(_files(), name, "--preset").read_text(encoding="utf-8")
    return f"# yaml-language-server: $schema={schema}\n{text}"


def _files() -> dict[str, resources.abc.Traversable]:
    folder = resources.files("ultrafuser.recipe.presets")
    return {e.name.removesuffix(".yaml"): e for e in folder.iterdir() if e.name.endswith(".yaml")}
