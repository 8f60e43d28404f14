"""The fused model: configuration, gates, fusion rules, head, cache, checkpoints. Importing this package is light."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultrafuser.hashing import content_hash
    from ultrafuser.modeling.cache import SpecialistCache
    from ultrafuser.modeling.checkpoint import save_fused
    from ultrafuser.modeling.configuration import UltraFuserConfig
    from ultrafuser.modeling.fusion import FUSION_RULES
    from ultrafuser.modeling.gate import GATES
    from ultrafuser.modeling.membership import add_specialist, remove_specialist
    from ultrafuser.modeling.model import UltraFuserForCausalLM
    from ultrafuser.modeling.output import UltraFuserOutput
    from ultrafuser.modeling.specialists import open_specialist
    from ultrafuser.modeling.storage import check_output

_HOME = {
    "SpecialistCache": "cache",
    "UltraFuserConfig": "configuration",
    "FUSION_RULES": "fusion",
    "GATES": "gate",
    "UltraFuserForCausalLM": "model",
    "UltraFuserOutput": "output",
    "content_hash": ".hashing",
    "add_specialist": "membership",
    "check_output": "storage",
    "open_specialist": "specialists",
    "remove_specialist": "membership",
    "save_fused": "checkpoint",
}

__all__ = [
    "FUSION_RULES",
    "GATES",
    "SpecialistCache",
    "UltraFuserConfig",
    "UltraFuserForCausalLM",
    "UltraFuserOutput",
    "add_specialist",
    "check_output",
    "content_hash",
    "open_specialist",
    "remove_specialist",
    "save_fused",
]


def __getattr__(name: str) -> Any:
    """Import the module that defines `name` when it is first asked for, so that the command line starts fast."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
