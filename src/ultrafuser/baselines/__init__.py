"""Everything a fused model must stand beside: the table BASELINES. Importing this package is light."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ultrafuser.baselines.setting import Baseline, Made, Setting
from ultrafuser.lookup import lookup

__all__ = ["BASELINES", "Baseline", "Made", "Setting", "find_baseline"]


def later(module: str, name: str) -> Callable[..., Any]:
    """A function of this package that is imported when it is called: the table itself costs nothing."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(f"{__name__}.{module}"), name)(*arguments, **options)

    return call


BASELINES: dict[str, Baseline] = {
    row.name: row
    for row in (
        Baseline(
            "further-tuned",
            "a specialist tuned further on everything, or on one domain's data",
            later("further", "further_tuned"),
            variants=later("further", "further_variants"),
            paper="table 1, further tuned on everything; table 8, on one subset",
        ),
    )
}


def find_baseline(text: str) -> tuple[Baseline, str]:
    """The row and the variant that `further-tuned:code` means. Raises ValueError for an unknown name."""
    name, _, variant = text.partition(":")
    return lookup(BASELINES, name, "NAME"), variant
