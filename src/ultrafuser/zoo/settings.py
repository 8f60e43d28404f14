"""Everything that decides the zoo's numbers: sizes, shapes, schedules and seeds. Plain data, no torch."""

from dataclasses import dataclass, field

from ultrafuser.zoo.prepare import Sizes


@dataclass(frozen=True)
class Shape:
    """Architecture of base and specialists: a small Llama with tied embeddings."""

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 352
    positions: int = 1024


@dataclass(frozen=True)
class TrainSettings:
    """One training run: batch in examples, peak learning rate (cosine), passes over the data, steps between checks."""

    batch: int
    learning_rate: float
    epochs: float = 1.0
    check_every: int = 200
    patience: int = 5
    warmup: int = 50
    weight_decay: float = 0.05
    seed: int = 17


@dataclass(frozen=True)
class BuildSettings:
    """The whole build. The defaults make the shipped models, in about two hours on two cores."""

    seed: int = 17
    sizes: Sizes = field(default_factory=Sizes)
    shape: Shape = field(default_factory=Shape)
    tokenizer_characters: int = 6_000_000
    raw_row: int = 384
    raw_tokens: int = 15_000_000
    raw_validation_tokens: int = 60_000
    max_length: int = 512
    base: TrainSettings = TrainSettings(batch=8, learning_rate=4e-3, check_every=500, warmup=100)
    text: TrainSettings = TrainSettings(batch=16, learning_rate=2e-3, epochs=2.5)
    code: TrainSettings = TrainSettings(batch=16, learning_rate=2e-3, epochs=6)
    math: TrainSettings = TrainSettings(batch=16, learning_rate=2e-3, epochs=4)

    def training(self, name: str) -> TrainSettings:
        """Training settings of the base or of a domain's specialist."""
        return {"base": self.base, "text": self.text, "code": self.code, "math": self.math}[name]


@dataclass(frozen=True)
class ExtraSettings:
    """A further specialist on the shipped base, of a domain whose data a program draws."""

    seed: int = 17
    counts: dict[str, int] = field(default_factory=lambda: {"heldout": 600, "validation": 300, "train": 48_000})
    max_length: int = 512
    training: TrainSettings = TrainSettings(batch=32, learning_rate=2e-3, check_every=150)
