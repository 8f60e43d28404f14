"""Measures checkpoints of a training on the held-out items, for a table about checkpoints; it chooses none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ultrafuser.files import write_whole
from ultrafuser.reproduce.context import Context

FROM = 2 / 9  # the paper looks at steps 2,000 to 9,000: the last seven ninths


def checkpoint_steps(steps: int, count: int) -> list[int]:
    """`count` steps evenly from 2/9 of the training to its end (fewer where there are not that many)."""
    reach = [FROM + (1 - FROM) * place / max(1, count - 1) for place in range(count)]
    return sorted({max(1, round(steps * share)) for share in (reach if count > 1 else [1.0])})


class Checkpoints:
    """Reads the held-out items at `count` steps of the stage given by its settings; what is read survives a kill."""

    def __init__(self, context: Context, stage: Mapping[str, Any], count: int) -> None:
        self.context = context
        self.stage = stage["name"]
        self.steps = checkpoint_steps(stage["steps"], count)
        self.file = context.folder / "checkpoints.json"

    def callback(self, model: Any, tokenizer: Any) -> Any:
        """A callback of the Trainer that measures the model at the chosen steps."""
        from transformers import TrainerCallback

        looks = self

        class Looking(TrainerCallback):
            """Hears of every step of every stage."""

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if looks.is_under_way(args) and state.global_step in looks.steps:
                    looks.look(model, tokenizer, state.global_step)

        return Looking()

    def is_under_way(self, args: Any) -> bool:
        """Whether the stage under way is the one that is looked at: its folder is named after it."""
        return str(args.output_dir).endswith(f"-{self.stage}")

    def look(self, model: Any, tokenizer: Any, step: int) -> None:
        """Measure now and keep what was read."""
        label = f"checkpoint {step}"
        rows = self.context.measure(model, tokenizer, label, {label: None})[label]
        write_whole(self.file, json.dumps({**self._kept(), str(step): rows}))

    def measured(self) -> list[dict[str, Any]]:
        """Step and items of each checkpoint, in order."""
        kept = self._kept()
        return [{"step": step, "items": kept[str(step)]} for step in self.steps if str(step) in kept]

    def _kept(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found
