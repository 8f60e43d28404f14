"""The small specialists shipped with the package: names, folders, cards. Imports neither torch nor transformers."""

import json
from pathlib import Path
from typing import Any

BASE = "base"
SPECIALISTS = ("text", "code", "math")
EXTRAS = ("dna",)  # further domains on the same base: nothing takes them unless it names them
MODELS = Path(__file__).parent / "models"
EXTRA_MODELS = Path(__file__).parent / "extras"

MODEL_PREFIX, SAMPLE_PREFIX = "zoo:", "zoo-sample:"

__all__ = [
    "BASE",
    "EXTRAS",
    "EXTRA_MODELS",
    "MODELS",
    "SPECIALISTS",
    "card",
    "extra_summary",
    "names",
    "path",
    "resolve_data",
    "resolve_source",
    "sample_path",
    "summary",
]


def names() -> tuple[str, ...]:
    """Names of the shipped models: the base, one specialist per domain of the trio, then those of further domains."""
    return (BASE, *SPECIALISTS, *EXTRAS)


def path(name: str) -> Path:
    """Folder of one shipped model, an ordinary Transformers folder.

    Raises ValueError for an unknown name, listing the choices, and for a model that this installation lacks.
    """
    if name not in names():
        raise ValueError(f"unknown zoo model {name!r}; choose one of: {', '.join(names())}")
    folder = (EXTRA_MODELS if name in EXTRAS else MODELS) / name
    if not (folder / "config.json").is_file():
        how = f"ultrafuser zoo extend {name}" if name in EXTRAS else "ultrafuser zoo build DATA"
        raise ValueError(f"zoo model {name!r} is not in this installation ({folder}); run `{how}`")
    return folder


def card(name: str) -> str:
    """Text of one shipped model's card: sources, licences, tokens seen, held-out losses, limits."""
    return (path(name) / "README.md").read_text(encoding="utf-8")


def summary() -> dict[str, Any]:
    """What the build of base and trio measured (zoo.json): losses by model and domain, margins, training, sources.

    Raises ValueError when this installation has no zoo.
    """
    file = MODELS / "zoo.json"
    if not file.is_file():
        raise ValueError(f"this installation has no zoo ({file}); run `ultrafuser zoo build DATA`")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def extra_summary(name: str) -> dict[str, Any]:
    """What the build of a further specialist measured: losses of all models by domain, its margin, its training.

    Raises ValueError for a name that is no further specialist's, and where this installation lacks it.
    """
    if name not in EXTRAS:
        raise ValueError(f"unknown further specialist {name!r}; choose one of: {', '.join(EXTRAS)}")
    found: dict[str, Any] = json.loads((path(name) / "zoo.json").read_text(encoding="utf-8"))
    return found


def sample_path(name: str) -> Path:
    """File of the shipped sample named "DOMAIN/PART", such as "text/train" or "composite/heldout".

    Raises ValueError for an unknown domain or part, listing the choices.
    """
    from ultrafuser.zoo import sample

    domain, _, part = name.partition("/")
    return sample.path(domain, part)


def resolve_source(source: str) -> str:
    """The folder of a shipped model for "zoo:text"; anything else (folder, Hub id) as it is."""
    return str(path(source.removeprefix(MODEL_PREFIX))) if source.startswith(MODEL_PREFIX) else source


def resolve_data(source: str) -> str:
    """The file of a shipped sample for "zoo-sample:text/train"; anything else (file, folder, Hub id) as it is."""
    return str(sample_path(source.removeprefix(SAMPLE_PREFIX))) if source.startswith(SAMPLE_PREFIX) else source
