"""Generation: streaming answers with the gate's weights, batches, scoring of given answers. Importing it is light."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ultrafuser.generation.sampling import Sampling, only_weights
from ultrafuser.generation.text import IncrementalText

if TYPE_CHECKING:
    from ultrafuser.generation.engine import ContextFull, Generation, TokenEvent, generate_batch, stream
    from ultrafuser.generation.likelihood import Scored, likelihoods, token_likelihoods
    from ultrafuser.generation.scoring import score, score_text, score_turns

_HOME = {
    "ContextFull": "engine",
    "Generation": "engine",
    "TokenEvent": "engine",
    "Scored": "likelihood",
    "generate_batch": "engine",
    "likelihoods": "likelihood",
    "stream": "engine",
    "token_likelihoods": "likelihood",
    "score": "scoring",
    "score_text": "scoring",
    "score_turns": "scoring",
}

__all__ = [
    "ContextFull",
    "Generation",
    "IncrementalText",
    "Sampling",
    "Scored",
    "TokenEvent",
    "generate_batch",
    "likelihoods",
    "only_weights",
    "score",
    "score_text",
    "score_turns",
    "stream",
    "token_likelihoods",
]


def __getattr__(name: str) -> Any:
    """Import torch only when a function that needs it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
