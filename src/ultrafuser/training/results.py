"""What a training run gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["StageResult", "TrainingResult"]


@dataclass
class StageResult:
    """What one stage gave. Validation losses in nats per response token, by domain; None without validation data.

    `best` holds the step and the losses of the best evaluation, `gate_weights` the mean weights {domain: {specialist:
    weight}} on the validation data (on the last training batches without it), `seconds` the time spent in the process
    that finished the stage. `stored`, of a stage that learnt from stored states: what lay on the disk
    (`predictions`, null where the heads ran at every step; `gigabytes`) and `loss_bound`, the most in nats that a
    token's loss may have been off by for the way it is stored.
    """

    name: str
    train: str
    steps: int
    seconds: float
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None
    best: dict[str, Any] | None = None
    gate_weights: dict[str, dict[str, float]] | None = None
    warnings: list[str] = field(default_factory=list)
    stored: dict[str, Any] | None = None


@dataclass
class TrainingResult:
    """Everything that was logged, in order, and the summary of each stage."""

    history: list[dict[str, Any]]
    stages: list[StageResult]

    @property
    def warnings(self) -> list[str]:
        """What the stages warned about."""
        return [warning for stage in self.stages for warning in stage.warnings]

    def as_dict(self) -> dict[str, Any]:
        """The stages' summaries as plain JSON, without the history."""
        return {"stages": [asdict(stage) for stage in self.stages]}


def losses_by_domain(entry: dict[str, Any]) -> dict[str, float]:
    """{domain: loss} out of a log entry with eval_loss_DOMAIN."""
    prefix = "eval_loss_"
    return {key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)}
