"""Recipes to start from, as commented YAML. A new one is one more .yaml file here."""

from importlib import resources

from ultrafuser.lookup import lookup

SCHEMA_FILE = "recipe.schema.json"


def preset_names() -> list[str]:
    """Names of the recipes that `ultrafuser init` can write."""
    return sorted(_files())


def preset(name: str, file: str = "fuse.yaml") -> str:
    """The text of a recipe to be written to `file`, its schema beside it. Raises ValueError for an unknown name."""
    text = lookup(_files(), name, "--preset").read_text(encoding="utf-8").replace("THIS_FILE", file)
    return f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}"


def _files() -> dict[str, resources.abc.Traversable]:
    folder = resources.files("ultrafuser.recipe.presets")
    return {e.name.removesuffix(".yaml"): e for e in folder.iterdir() if e.name.endswith(".yaml")}
