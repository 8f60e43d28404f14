"""What listens to a stage: the history, TensorBoard, signals that ask to stop, warnings about the gate."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ultrafuser.training.health import collapse_warnings
from ultrafuser.training.history import History, TensorBoard

__all__ = ["Flow", "Recorder", "StopRequest", "TrainingInterrupted"]

logger = logging.getLogger(__name__)


class TrainingInterrupted(KeyboardInterrupt):
    """Training was asked to stop (SIGTERM, Ctrl-C) and has saved a checkpoint; the same call goes on from there."""

    def __init__(self, stage: str, step: int, signum: int) -> None:
        super().__init__(f"stage {stage!r}: stopped after step {step}, checkpoint saved; run the same again to go on")
        self.stage = stage
        self.step = step
        self.signum = signum


class StopRequest:
    """Turns SIGTERM and Ctrl-C into "finish this step, save, stop" while a stage is being trained.

    A second signal, or one outside the loop, interrupts at once: only the steps since the last checkpoint are lost.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signum: int | None = None
        self.in_loop = False

    @contextmanager
    def listening(self, wanted: bool = True) -> Iterator[None]:
        """Installs the handlers; only the main thread can, elsewhere signals do what they did before."""
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self.in_loop or self.signum is not None:
            raise KeyboardInterrupt(f"signal {signum}")
        self.signum = signum
        logger.warning("asked to stop by signal %d: finishing this step and saving", signum)


class Flow(TrainerCallback):
    """When to log, save and stop, beyond the Trainer's own intervals."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Intervals come from the recipe, not from the checkpoint."""
        state.compute_steps(args, state.max_steps)
        self.stop.in_loop = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log before each save, so that a resumed run's log entries cover the same steps; stop when asked to."""
        if self.stop.signum is not None:
            control.should_save = control.should_training_stop = True
        if control.should_save:
            control.should_log = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on a signal interrupts at once."""
        self.stop.in_loop = False


class Recorder(TrainerCallback):
    """Writes log entries to the history and to TensorBoard and warns, once per specialist, when the gate collapses."""

    def __init__(self, stage: str, history: History, board: TensorBoard | None, first_step: int, watch: bool) -> None:
        self.stage = stage
        self.history = history
        self.board = board
        self.first_step = first_step
        self.watch = watch
        self.warnings: dict[str, str] = {}
        self._started = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record one entry."""
        if logs and state.is_world_process_zero and ("loss" in logs or "eval_loss" in logs):
            self.record(state.global_step, logs)

    def record(self, step: int, logs: dict[str, Any]) -> None:
        """Write an entry of this stage, with the seconds since the stage began in this process."""
        entry = {"stage": self.stage, "step": step, **{key: value for key, value in logs.items() if key != "epoch"}}
        entry["seconds"] = round(time.perf_counter() - self._started, 3)
        found = collapse_warnings(logs.get("gate_weights", {})) if self.watch else {}
        for specialist, warning in found.items():
            if specialist not in self.warnings:
                entry.setdefault("warnings", []).append(warning)
                logger.warning("stage %s, step %d: %s", self.stage, step, warning)
        self.warnings |= found
        self.history.append(entry)
        if self.board is not None:
            self.board.write(self.first_step + step, entry)
