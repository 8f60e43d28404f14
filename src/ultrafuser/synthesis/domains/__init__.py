"""The shipped domains: what each is about, its guidance and examples, and the prompts that all of them share."""

from importlib import resources

__all__ = ["PROMPTS_FILE", "domain_names", "shipped"]

PROMPTS_FILE = "prompts.yaml"


def domain_names() -> list[str]:
    """Names of the shipped domains."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _entries() if entry.name != PROMPTS_FILE)


def shipped(file: str) -> resources.abc.Traversable:
    """A file of this folder."""
    return resources.files(__name__).joinpath(file)


def _entries() -> list[resources.abc.Traversable]:
    return [entry for entry in resources.files(__name__).iterdir() if entry.name.endswith(".yaml")]
