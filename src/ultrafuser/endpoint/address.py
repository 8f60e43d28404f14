"""The address of an endpoint: put into the form that the client needs, and into one that may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

__all__ = ["normal_address", "public_address"]

_ENDINGS = ("/chat/completions", "/completions", "/models")


def normal_address(url: str, field: str = "base_url") -> str:
    """`http://host:8080` becomes `http://host:8080/v1`; the path of a single call is taken off.

    Raises ValueError, naming `field`, for what is not an http(s) address.
    """
    fix = "write it like http://localhost:8080/v1"
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise ValueError(f"{field}: {url!r} is not an address ({error}); {fix}") from error
    if not usable:
        raise ValueError(f"{field}: {url!r} is not an http or https address; {fix}")
    path = parts.path.rstrip("/")
    for ending in _ENDINGS:
        path = path.removesuffix(ending)
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", parts.query, ""))


def public_address(url: str) -> str:
    """The address without user name, password and query, which can hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
