"""What a demo run measured, as strict models that are written to and read from JSON.

`DemoResult` is what `--json` holds; `DemoDetails` holds the longer lists that only the report needs.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

DOMAINS = ("text", "code", "math")
COMPOSITE = "composite"
COLUMNS = (*DOMAINS, COMPOSITE)

ByDomain = dict[str, float]


class Strict(BaseModel):
    """Refuses unknown keys, so that a stored run of another format is noticed."""

    model_config = ConfigDict(extra="forbid")


class Item(Strict):
    """One held-out item read by one model: summed loss in nats, response tokens, mean gate weights."""

    id: str
    category: str
    n_tokens: int
    loss_sum: float
    weights: list[float] | None = None


class Losses(Strict):
    """Held-out response loss in nats per token, by domain and on the composite items."""

    specialists: dict[str, ByDomain]
    uniform: ByDomain
    further_tuned: ByDomain
    uniform_stage2: ByDomain
    stage1: ByDomain
    stage2: ByDomain
    sample_oracle: ByDomain


class Difference(Strict):
    """Mean paired difference in nats per token with a 95% bootstrap interval over the items."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 where the whole interval lies below zero, 1 where it lies above, else 0."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


class DemoResult(Strict):
    """The numbers of one demo run: what `--json FILE` holds."""

    loss: Losses
    gate_weights: dict[str, ByDomain]
    seconds: dict[str, float]
    gate_weights_stage1: dict[str, ByDomain]
    differences: dict[str, dict[str, Difference]]
    oracle_choice: dict[str, ByDomain]
    seed: int
    fast: bool
    base: str
    base_validation_loss: dict[str, float]
    steps: dict[str, int]
    examples_per_step: dict[str, int]
    items: dict[str, int]
    tokens: dict[str, int]
    training_items: dict[str, int]
    parameters: dict[str, int]
    version: str

    @property
    def names(self) -> list[str]:
        """Names of the specialists, in their order in the fused model."""
        return list(self.loss.specialists)

    def right_specialist(self, domain: str) -> str:
        """The specialist whose name contains the domain."""
        return right_specialist(self.names, domain)


class Curve(Strict):
    """Loss during one training: per step on the training batches, and now and then on the validation split."""

    name: str
    steps: list[int]
    loss: list[float]
    validation_steps: list[int] = Field(default_factory=list)
    validation_loss: list[float] = Field(default_factory=list)


class Token(Strict):
    """One response token with the gate's weight for each specialist."""

    text: str
    weights: list[float]


class Example(Strict):
    """One answer with its weights: a held-out reference answer that was read, or one that the model wrote."""

    id: str
    domain: str
    prompt: str
    written: bool
    tokens: list[Token]


class DemoDetails(Strict):
    """What the report shows beside the numbers: items, curves and coloured answers."""

    items: dict[str, list[Item]]
    curves: list[Curve]
    examples: list[Example]


def right_specialist(names: list[str], domain: str) -> str:
    """The one name that contains the domain; ValueError when there is none or several."""
    found = [name for name in names if domain in name]
    if len(found) != 1:
        raise ValueError(f"specialists: {names} hold {len(found)} names with {domain!r}; exactly one is needed")
    return found[0]
