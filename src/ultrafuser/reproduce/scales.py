"""How large a reproduction is: steps, seeds, data and tables of each scale, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ultrafuser.recipe import StageConfig

GATE, ALL = "gate", "all"  # the names of the two stages


@dataclass(frozen=True)
class Size:
    """Steps, conversations of each domain in a batch and learning rate of one stage."""

    steps: int
    examples: int
    rate: float

    def stage(self, name: str, train: Any, *, checks: int = 5) -> StageConfig:
        """The stage, measured on the validation data `checks` times and saved as often."""
        every = max(1, self.steps // checks)
        return StageConfig(
            name=name,
            train=train,
            steps=self.steps,
            examples_per_category=self.examples,
            learning_rate=self.rate,
            warmup_steps=min(self.steps - 1, max(1, self.steps // 20)),
            eval_every=every,
            save_every=every,
            logging_steps=1,
        )


@dataclass(frozen=True)
class Scale:
    """One size of the reproduction. `tables` None means all; limits count conversations of each domain, None is all.

    `checkpoints` is how many of a training are looked at where a table is about checkpoints (the paper: 12);
    `benchmarks` are asked of every model of Table 1: where models are small, those alone that need no written answers.
    """

    summary: str
    seeds: int
    gate: Size
    full: Size
    tables: tuple[str, ...] | None = None
    train_limit: int | None = None
    heldout_limit: int | None = None
    validation_share: float = 0.15
    max_length: int = 640
    checkpoints: int = 12
    benchmarks: tuple[str, ...] = ("truthfulqa",)
    benchmark_limit: int | None = 100
    workers: int = 2
    recipe: str | None = None
    needs_gpu: bool = False

    def stages(self) -> list[StageConfig]:
        """The paper's two stages at this size."""
        return [self.gate.stage(GATE, "gate"), self.full.stage(ALL, "all")]


SCALES: dict[str, Scale] = {
    "smoke": Scale(
        "shapes and plumbing in a few minutes: a handful of steps, the figures mean nothing",
        seeds=1,
        gate=Size(3, 2, 3e-3),
        full=Size(3, 2, 4e-4),
        train_limit=24,
        heldout_limit=4,
        checkpoints=3,
        benchmark_limit=2,
    ),
    "tiny": Scale(
        "one seed and the main tables on the shipped trio and sample: about 90 minutes on two cores",
        seeds=1,
        gate=Size(120, 4, 3e-3),
        full=Size(120, 4, 4e-4),
        tables=("table1", "table2", "table3", "table6", "table11", "figure1", "figure5", "figure6"),
    ),
    "small": Scale(
        "every table and figure over three seeds: hours on two cores, in the background",
        seeds=3,
        gate=Size(120, 4, 3e-3),
        full=Size(120, 4, 4e-4),
    ),
    "paper": Scale(
        "the paper's recipe: three models of 13 billion parameters, for a machine with the GPUs for it",
        seeds=1,
        gate=Size(400, 64, 2e-5),
        full=Size(5000, 32, 2e-5),
        benchmarks=("truthfulqa", "humaneval", "gsm8k", "math", "sat_math", "aqua"),
        benchmark_limit=None,
        workers=1,
        recipe="paper",
        needs_gpu=True,
    ),
}
