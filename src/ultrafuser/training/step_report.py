"""Tells whoever asked how far a training is, from inside the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback

__all__ = ["StepReport"]


class StepReport(TrainerCallback):
    """Passes phase, step, number of steps and the last logged loss on to `report` after each step.

    `phases` are the names of the stages in order; `next` moves on to the following one.
    """

    def __init__(self, phases: Sequence[str], report: Callable[[str, int, int, float | None], None]) -> None:
        self.phases = list(phases)
        self.report = report
        self.loss: float | None = None

    @property
    def phase(self) -> str:
        """What is being trained."""
        return self.phases[0]

    def next(self) -> None:
        """The stage is done."""
        self.loss = None
        if len(self.phases) > 1:
            del self.phases[0]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say where it begins: at a checkpoint when it goes on."""
        self.report(self.phase, state.global_step, state.max_steps, None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the loss; it is shown with the step."""
        if logs and "loss" in logs:
            self.loss = float(logs["loss"])
            self.report(self.phase, state.global_step, state.max_steps, self.loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        self.report(self.phase, state.global_step, state.max_steps, self.loss)
