"""Fuse specialised language models token by token with a small trained gate (Ding et al., ACL 2025)."""

from typing import TYPE_CHECKING, Any

from ultrafuser.modeling.registration import register as _register

if TYPE_CHECKING:
    from ultrafuser.modeling.configuration import UltraFuserConfig
    from ultrafuser.modeling.model import UltraFuserForCausalLM

__version__ = "0.1.0"
__all__ = ["UltraFuserConfig", "UltraFuserForCausalLM", "__version__"]

_register()


def __getattr__(name: str) -> Any:
    """Import the model classes when they are first asked for, so that `import ultrafuser` stays light."""
    if name in ("UltraFuserConfig", "UltraFuserForCausalLM"):
        from ultrafuser import modeling

        return getattr(modeling, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
