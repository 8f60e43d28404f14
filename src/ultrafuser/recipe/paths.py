"""Telling local paths from ids without the network: `zoo:text` and a source with a revision are ids."""

import os
import re
from pathlib import Path

_SCHEME = re.compile(r"[a-z][a-z0-9-]+:(?![\\/])")
HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


def has_scheme(source: str) -> bool:
    """Whether a source is of the form `zoo:text`, `zoo-sample:text/train` or `hub:owner/name`: not a path."""
    return _SCHEME.match(source) is not None


def is_gguf_path(source: str) -> bool:
    """Whether a specialist's source is a GGUF file: a path that ends in .gguf."""
    return source.endswith(".gguf") and not has_scheme(source)


def is_hub_model(source: str, revision: str | None) -> bool:
    """Whether a specialist's source is the id of a Hub model: it is exactly when a revision is given.

    Without one, `owner/name` is a folder, and a missing one is reported at once as a folder.
    """
    return revision is not None and not has_scheme(source)


def absolute_path(path: str, folder: Path) -> str:
    """`path` starting from `folder`, `~` expanded, links not resolved."""
    return str((folder / os.path.expanduser(path)).absolute())


def portable_path(path: str, folder: Path, *, public: bool = False) -> str:
    """`path` relative to `folder` where it lies inside; otherwise unchanged, or only its last part when `public`."""
    whole = folder / os.path.expanduser(path)
    try:
        return whole.relative_to(folder).as_posix()
    except ValueError:
        return whole.name if public else path


def is_template_path(spec: str | None) -> bool:
    """Whether a template is given as a file: not a name, not Jinja source, not the tokenizer's own."""
    if spec is None or "{%" in spec or "{{" in spec:
        return False
    return spec.endswith((".jinja", ".jinja2", ".j2")) or "/" in spec
