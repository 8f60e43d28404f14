"""Specs to start from, as commented YAML. A new one is one more .yaml file here."""

from importlib import resources

from ultrafuser.lookup import lookup

__all__ = ["preset", "preset_names"]


def preset_names() -> list[str]:
    """Names of the specs that `ultrafuser synth init` can write."""
    return sorted(_files())


def preset(name: str) -> str:
    """The text of a spec. Raises ValueError for an unknown name."""
    return lookup(_files(), name, "--preset").read_text(encoding="utf-8")


def _files() -> dict[str, resources.abc.Traversable]:
    folder = resources.files("ultrafuser.synthesis.presets")
    return {e.name.removesuffix(".yaml"): e for e in folder.iterdir() if e.name.endswith(".yaml")}
