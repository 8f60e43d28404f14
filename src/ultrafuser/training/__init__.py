"""Training in stages, and the response loss of a fused model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultrafuser.training.callbacks import TrainingInterrupted
    from ultrafuser.training.evaluation import ExampleLoss, ResponseLoss, evaluate_many, evaluate_response_loss
    from ultrafuser.training.gate_start import GateStart, start_gate
    from ultrafuser.training.health import collapse_warnings
    from ultrafuser.training.material import Material, load_material
    from ultrafuser.training.progress import Progress
    from ultrafuser.training.recipe_run import RecipeResult, build_model, train_recipe
    from ultrafuser.training.results import StageResult, TrainingResult
    from ultrafuser.training.specialising import Adapter, Specialised, specialise
    from ultrafuser.training.stages import run_stages
    from ultrafuser.training.trainer import FuserTrainer, TrainingDiverged

_HOME = {
    "Adapter": "specialising",
    "ExampleLoss": "evaluation",
    "FuserTrainer": "trainer",
    "GateStart": "gate_start",
    "Material": "material",
    "Progress": "progress",
    "RecipeResult": "recipe_run",
    "ResponseLoss": "evaluation",
    "Specialised": "specialising",
    "StageResult": "results",
    "TrainingDiverged": "trainer",
    "TrainingInterrupted": "callbacks",
    "TrainingResult": "results",
    "build_model": "recipe_run",
    "collapse_warnings": "health",
    "evaluate_many": "evaluation",
    "evaluate_response_loss": "evaluation",
    "load_material": "material",
    "run_stages": "stages",
    "specialise": "specialising",
    "start_gate": "gate_start",
    "train_recipe": "recipe_run",
}

__all__ = [
    "Adapter",
    "ExampleLoss",
    "FuserTrainer",
    "GateStart",
    "Material",
    "Progress",
    "RecipeResult",
    "ResponseLoss",
    "Specialised",
    "StageResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "TrainingResult",
    "build_model",
    "collapse_warnings",
    "evaluate_many",
    "evaluate_response_loss",
    "load_material",
    "run_stages",
    "specialise",
    "start_gate",
    "train_recipe",
]


def __getattr__(name: str) -> Any:
    """Import the module that defines `name` when it is first asked for: evaluation does not need the Trainer."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
