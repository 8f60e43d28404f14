"""A fused model inside lm-evaluation-harness: its model class, and tasks over local files. Importing it is light."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ultrafuser.evaluation.harness.local_tasks import write_tasks

if TYPE_CHECKING:
    from ultrafuser.evaluation.harness.model import UltraFuserLM
    from ultrafuser.evaluation.harness.opening import choose_device, locate

NAMES = ("ultrafuser", "ultrafuser-fused")
_HOME = {"UltraFuserLM": "model", "choose_device": "opening", "locate": "opening"}

__all__ = ["NAMES", "UltraFuserLM", "choose_device", "locate", "register", "write_tasks"]


def register() -> None:
    """Make the model known to lm-eval under `NAMES`, so that `simple_evaluate(model="ultrafuser", ...)` finds it.

    lm-eval looks for no plugins and takes a registry that holds anything for a complete one: its own models come first.
    """
    import_module("lm_eval.models")
    registry = import_module("lm_eval.api.registry")
    if NAMES[0] not in registry.MODEL_REGISTRY:
        registry.register_model(*NAMES)(import_module(f"{__name__}.model").UltraFuserLM)


def __getattr__(name: str) -> Any:
    """Import lm-eval and torch only when what needs them is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
