"""A bar with the time left for each stage on a terminal; elsewhere a line now and then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from transformers import TrainerCallback

__all__ = ["Progress"]

LINES = 10  # per stage, where the console is no terminal


class Progress(TrainerCallback):
    """Shows stage, step, loss and time left; validation losses as they come."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.name = self.note = ""
        self.bars: Bars | None = None
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar of the next stage, where it goes on from."""
        self.name, self.note = _stage_of(args.output_dir), ""
        if state.global_step and state.is_world_process_zero:
            self.console.print(f"stage {self.name}: going on after step {state.global_step}", markup=False)
        if not self.console.is_terminal or not state.is_world_process_zero:
            return
        columns = (
            TextColumn("stage {task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=self.console)
        self.task = self.bars.add_task(self.name, total=state.max_steps, completed=state.global_step, note="")
        self.bars.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the loss of training, and each evaluation on a line of its own."""
        if not logs or not state.is_world_process_zero:
            return
        if "eval_loss" in logs:
            prefix = "eval_loss_"
            domains = ", ".join(f"{k.removeprefix(prefix)} {v:.4f}" for k, v in logs.items() if k.startswith(prefix))
            self.console.print(f"stage {self.name}, step {state.global_step}: validation {domains}", markup=False)
        elif "loss" in logs:
            self.note = f"loss {logs['loss']:.4f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar; without one, say a line at every tenth of the stage."""
        if self.bars is not None:
            self.bars.update(self.task, completed=state.global_step, note=self.note)
        elif state.is_world_process_zero and state.global_step % max(1, state.max_steps // LINES) == 0:
            done = f"step {state.global_step} of {state.max_steps}"
            self.console.print(f"stage {self.name}, {done}{', ' if self.note else ''}{self.note}", markup=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar, also when training ended by an error."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


def _stage_of(folder: str) -> str:
    """The stage's name out of the name of its folder, for example work/1-gate."""
    return Path(folder).name.partition("-")[2]
