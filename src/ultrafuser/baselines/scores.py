"""Per-example results of a method on a split: what every table and figure is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ultrafuser.baselines.setting import Setting
    from ultrafuser.training import ResponseLoss
    from ultrafuser.training.material import Material

__all__ = ["Score", "Scores", "measure", "measure_model", "open_made", "part_of"]


class Score(NamedTuple):
    """One example: its loss in nats summed over its response tokens, how many there are, and its domain."""

    id: str
    domain: str
    nats: float
    tokens: int


@dataclass(frozen=True)
class Scores:
    """All examples of a split in the data's order, so that two methods can be compared example by example.

    `weights` holds mean gate weights {domain: {specialist: weight}} where there is a gate.
    """

    rows: list[Score]
    weights: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, loss: ResponseLoss) -> Scores:
        """Scores out of what `evaluate_response_loss` gives."""
        rows = [Score(e.id, e.category, e.loss_sum, e.n_tokens) for e in loss.per_example]
        return cls(rows, loss.mean_weights() if len(loss.specialists) > 1 else {})

    def by_domain(self) -> dict[str, float]:
        """Nats per response token over all tokens of each domain."""
        nats: dict[str, float] = {}
        tokens: dict[str, int] = {}
        for row in self.rows:
            nats[row.domain] = nats.get(row.domain, 0.0) + row.nats
            tokens[row.domain] = tokens.get(row.domain, 0) + row.tokens
        return {domain: nats[domain] / max(tokens[domain], 1) for domain in nats}

    def mean(self) -> float:
        """Mean of the domains' losses: every domain counts the same."""
        found = self.by_domain()
        return sum(found.values()) / len(found)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"rows": [list(row) for row in self.rows], "weights": self.weights}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        """The inverse of `as_dict`."""
        return cls([Score(*row) for row in data["rows"]], dict(data["weights"]))


def measure(setting: Setting, folder: str | Path, part: str = "heldout") -> Scores:
    """Open a model folder, fused or plain, and score it on a part of the setting's data in its own templates.

    `part`: validation or heldout. Raises ValueError where the recipe has no such data.
    """
    return measure_model(setting, open_made(setting, folder), part)


def measure_model(setting: Setting, model: Any, part: str = "heldout", *, gate_weights: Any = None) -> Scores:
    """The same for a fused model in memory (of one specialist: a plain model); `gate_weights` (N,) forces weights."""
    from ultrafuser.training import evaluate_response_loss

    dataset = part_of(setting.encoded(model.config.templates), part)
    return Scores.of(evaluate_response_loss(model, dataset, gate_weights=gate_weights))


def part_of(material: Material, part: str) -> Any:
    """A part of the material. Raises ValueError where the recipe has none."""
    found = getattr(material, part)
    if found is None:
        fix = "validation files or a validation_fraction" if part == "validation" else "held-out files"
        raise ValueError(f"data: the recipe has no {part} data; give its domains {fix}")
    return found


def open_made(setting: Setting, folder: str | Path) -> Any:
    """The model in a folder as a fused model, of one specialist where it is plain, in the recipe's number format."""
    from ultrafuser.modeling import UltraFuserForCausalLM, open_specialist
    from ultrafuser.modeling.specialists import open_tokenizer, read_config, resolve
    from ultrafuser.templates import load_template

    place, dtype = resolve(folder, field="folder"), setting.recipe.dtype
    if read_config(place.path, "folder").model_type == "ultrafuser":
        return UltraFuserForCausalLM.from_pretrained(place.folder, dtype=dtype).to(setting.device).eval()
    named = [name for name, origin in setting.origins.items() if origin.path == place.path]
    own = setting.templates[named[0]] if named else load_template(None, open_tokenizer(place, "folder"))
    name = named[0] if named else place.path.name
    plain = open_specialist(place.path, dtype=dtype, device=setting.device, field="folder")
    return setting.fuse({name: plain}, {name: own})
