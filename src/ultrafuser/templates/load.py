"""Finding a template's source: by name, in a file, written out, or the tokenizer's own."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from ultrafuser.lookup import did_you_mean
from ultrafuser.templates.render import compile_template

OWN = "own"


def template_names() -> list[str]:
    """Names of the templates shipped with the package."""
    folder = resources.files("ultrafuser.templates")
    return sorted(entry.name.removesuffix(".jinja") for entry in folder.iterdir() if entry.name.endswith(".jinja"))


def load_template(spec: str | None, tokenizer: Any = None, *, field: str = "template") -> str:
    """The Jinja source that `spec` means.

    `spec` is the name of a shipped template, the path of a .jinja file, Jinja source itself (it contains `{%` or
    `{{`), or None / "own" for the tokenizer's own chat template. Raises ValueError naming `field` for an unknown name,
    a missing file, a tokenizer without a template, and source that is not valid Jinja.
    """
    source = _find(spec, tokenizer, field)
    try:
        compile_template(source)
    except ValueError as error:
        raise ValueError(f"{field}: {_shown(spec)}: {str(error).removeprefix('template: ')}") from None
    return source


def _find(spec: str | None, tokenizer: Any, field: str) -> str:
    if spec is None or spec == OWN:
        return _own(tokenizer, field)
    if "{%" in spec or "{{" in spec:
        return spec
    if spec.endswith((".jinja", ".jinja2", ".j2")) or "/" in spec or "\\" in spec:
        path = Path(os.path.expanduser(spec))
        if not path.is_file():
            raise ValueError(f"{field}: no file {spec!r}; give the path of a .jinja file or one of {_names()}")
        return path.read_text(encoding="utf-8")
    if spec in template_names():
        return resources.files("ultrafuser.templates").joinpath(f"{spec}.jinja").read_text(encoding="utf-8")
    choices = [*template_names(), OWN]
    raise ValueError(f"{field}: {spec!r} is not one of {', '.join(choices)}{did_you_mean(spec, choices)}")


def _own(tokenizer: Any, field: str) -> str:
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, dict):
        own = own.get("default")
    if not own:
        raise ValueError(
            f"{field}: the tokenizer has no chat template of its own; name the one that the specialist was trained "
            f"with: {_names()}, or the path of a .jinja file"
        )
    return str(own)


def _names() -> str:
    return ", ".join(template_names())


def _shown(spec: str | None) -> str:
    if spec is None:
        return OWN
    return spec if len(spec) <= 60 else spec[:57] + "..."
