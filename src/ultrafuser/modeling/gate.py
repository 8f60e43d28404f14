"""Gates: from the specialists' last hidden states to one logit per specialist (Ding et al., ACL 2025, equation 1).

Legend: B batch, T time (any leading shape will do), N specialists, D hidden, F features of evidence.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ultrafuser.lookup import did_you_mean, lookup
from ultrafuser.modeling.evidence import FEATURES
from ultrafuser.modeling.numeric import at_least_float32

HIDDEN_SIZE = 512
"""Width of the paper's gate network."""
TEMPERATURE: dict[str, Any] = {"temperature": 1.0, "learn_temperature": False}
"""Options of every gate, with the paper's values; a configuration holds them where they differ."""


def _seed_linear(layer: nn.Linear, generator: torch.Generator, variance_kept: bool = False) -> None:
    """Uniform in +-1/sqrt(inputs), drawn on the CPU so that a seed gives the same weights on every device.

    `variance_kept`: sqrt(3) times wider, so that outputs are of the inputs' scale.
    """
    bound = layer.in_features**-0.5 * (3**0.5 if variance_kept else 1)
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            draw = torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
            with torch.no_grad():
                parameter.copy_(draw)


class Gate(nn.Module):
    """Base of all gates: `scores` is a gate's own, divided by a temperature they become gate logits.

    `serves_any_number`: no weight depends on how many specialists there are. `reads_evidence`: `scores` wants what
    `evidence.read_evidence` says of the specialists' predictions. `holds`: its weights at an answer's first token are
    those of the whole answer, see `AnswerGate`.
    """

    serves_any_number = False
    holds = False
    reads_evidence = False
    temperature: float = 1.0
    log_temperature: nn.Parameter | None

    def __init__(self, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.n_specialists = len(hidden_sizes)
        self.register_parameter("log_temperature", None)

    def set_temperature(self, temperature: float, learned: bool = False) -> None:
        """Divide the scores by this from now on; `learned`: it is where a parameter starts, kept positive by exp."""
        self.temperature = temperature
        start = torch.tensor(math.log(temperature), dtype=torch.float32)
        self.log_temperature = nn.Parameter(start) if learned else None

    @property
    def tempered(self) -> bool:
        """Whether the gate logits are not the scores themselves."""
        return self.log_temperature is not None or self.temperature != 1.0

    @property
    def projection_size(self) -> int | None:
        """Width that hidden states are projected to; None where the gate reads all of them as they are."""
        return None

    def reset_parameters(self, seed: int) -> None:
        """Draw the initial weights from `seed`; the same seed gives the same weights everywhere."""
        self.draw(seed)
        if self.log_temperature is not None:
            with torch.no_grad():
                self.log_temperature.fill_(math.log(self.temperature))

    def draw(self, seed: int) -> None:
        """Draw the weights behind `scores` from `seed`."""
        raise NotImplementedError

    def scores(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """One number for each specialist, (..., N) float32, from N hidden states (..., D_j)."""
        raise NotImplementedError

    def forward(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """Gate logits (..., N) float32 from N hidden states (..., D_j), and evidence where the gate reads it."""
        scores_BTN = self.scores(hidden_BTD, evidence_BTNF)
        if self.log_temperature is not None:
            return scores_BTN * torch.exp(-self.log_temperature)
        return scores_BTN if self.temperature == 1.0 else scores_BTN / self.temperature


class TokenGate(Gate):
    """The paper's gate: one two-layer network shared by all specialists, one scalar per hidden state.

    Linear(D, hidden_size), ReLU, Linear(hidden_size, 1) without bias: a last bias would cancel in the softmax.
    Serves any number of specialists (Ding et al., ACL 2025, equation 1).

    Where widths differ, D is `projection_size`, by default the smallest of them, and each specialist of another width
    has a learned Linear(D_j, D) without bias of its own before the shared network; the others are read as they are.
    """

    serves_any_number = True
    extra = 0  # numbers beside each hidden state

    def __init__(
        self, hidden_sizes: Sequence[int], hidden_size: int = HIDDEN_SIZE, projection_size: int | None = None
    ) -> None:
        super().__init__(hidden_sizes)
        width = min(hidden_sizes) if projection_size is None else projection_size
        self.inner = nn.Linear(width + self.extra, hidden_size)
        self.outer = nn.Linear(hidden_size, 1, bias=False)
        self.projections = nn.ModuleDict(
            {str(j): nn.Linear(size, width, bias=False) for j, size in enumerate(hidden_sizes) if size != width}
        )

    @property
    def width(self) -> int:
        """Width of the hidden states that the shared network reads."""
        return self.inner.in_features - self.extra

    @property
    def projection_size(self) -> int | None:
        """See `Gate.projection_size`."""
        return self.width if self.projections else None

    def draw(self, seed: int) -> None:
        """See `Gate.draw`. The projections come last, so that the shared network's draw is the same."""
        generator = torch.Generator().manual_seed(seed)
        _seed_linear(self.inner, generator)
        _seed_linear(self.outer, generator)
        for projection in self.projections.values():
            assert isinstance(projection, nn.Linear)
            _seed_linear(projection, generator, variance_kept=True)

    def _read(self, hidden: torch.Tensor, j: int) -> torch.Tensor:
        """Specialist j's hidden states at the shared network's width: (..., D_j) to (..., D)."""
        hidden, key = hidden.to(self.inner.weight), str(j)
        projection = self.projections[key] if key in self.projections else None  # noqa: SIM401
        width = self.width if projection is None else projection.in_features
        if hidden.shape[-1] != width:
            raise ValueError(
                f"gate: hidden states of specialist {j} are {hidden.shape[-1]} wide, but this gate was built for "
                f"{width}; build the gate for the specialists' hidden sizes"
            )
        return hidden if projection is None else projection(hidden)

    def features(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs of the inner layer for each hidden state, (..., N, hidden_size): `scores` is linear in them."""
        hidden_BTND = torch.stack([self._read(hidden, j) for j, hidden in enumerate(hidden_BTD)], dim=-2)
        return torch.relu(self.inner(hidden_BTND))

    def scores(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """One scalar for each hidden state: (..., N). Raises ValueError for a width it was not built for."""
        return at_least_float32(self.outer(self.features(hidden_BTD, evidence_BTNF)).squeeze(-1))


class EvidenceGate(TokenGate):
    """The token gate that reads, beside each hidden state, evidence on that specialist's own prediction.

    How sure the specialist is and how far the others agree with it, see `evidence.read_evidence`. One network for all,
    so it serves any number of specialists. Not in the paper.
    """

    reads_evidence = True
    extra = len(FEATURES)

    def features(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """See `TokenGate.features`. Raises ValueError without evidence."""
        if evidence_BTNF is None:
            raise ValueError("gate: an evidence gate reads the specialists' predictions too; pass evidence_BTNF")
        hidden_BTND = torch.stack([self._read(hidden, j) for j, hidden in enumerate(hidden_BTD)], dim=-2)
        return torch.relu(self.inner(torch.cat([hidden_BTND, evidence_BTNF.to(hidden_BTND)], dim=-1)))


class JointGate(Gate):
    """One network that reads all hidden states together and gives N scalars (the appendix's other reading of g)."""

    def __init__(self, hidden_sizes: Sequence[int], hidden_size: int = HIDDEN_SIZE) -> None:
        super().__init__(hidden_sizes)
        self.inner = nn.Linear(sum(hidden_sizes), hidden_size)
        self.outer = nn.Linear(hidden_size, len(hidden_sizes), bias=False)

    def draw(self, seed: int) -> None:
        """See `Gate.draw`."""
        generator = torch.Generator().manual_seed(seed)
        _seed_linear(self.inner, generator)
        _seed_linear(self.outer, generator)

    def scores(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """N scalars from the concatenated hidden states: (..., N)."""
        hidden = torch.cat([hidden.to(self.inner.weight) for hidden in hidden_BTD], dim=-1)
        return at_least_float32(self.outer(torch.relu(self.inner(hidden))))


class ConstantGate(Gate):
    """One learned logit per specialist, the same for every token; starts uniform. The simplest control."""

    def __init__(self, hidden_sizes: Sequence[int]) -> None:
        super().__init__(hidden_sizes)
        self.logits = nn.Parameter(torch.zeros(len(hidden_sizes)))

    def draw(self, seed: int) -> None:
        """All zero: the seed plays no part."""
        with torch.no_grad():
            self.logits.zero_()

    def scores(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """The learned logits, expanded to (..., N)."""
        return at_least_float32(self.logits).expand(*hidden_BTD[0].shape[:-1], -1)


class AnswerGate(Gate):
    """One decision for a whole answer: a linear map of all hidden states at the last token of the prompts.

    With the fusion's `top_k` 1 it is a router, which hands each answer to one specialist. The model holds its weights
    from an answer's first token to its last wherever it knows where prompts end: with prompts of the specialists' own,
    and in the training form. Plain `input_ids` do not say where, and are weighed token by token.
    """

    holds = True

    def __init__(self, hidden_sizes: Sequence[int]) -> None:
        super().__init__(hidden_sizes)
        self.outer = nn.Linear(sum(hidden_sizes), len(hidden_sizes))

    def draw(self, seed: int) -> None:
        """See `Gate.draw`."""
        _seed_linear(self.outer, torch.Generator().manual_seed(seed))

    def scores(self, hidden_BTD: Sequence[torch.Tensor], evidence_BTNF: torch.Tensor | None = None) -> torch.Tensor:
        """N scalars from the concatenated hidden states: (..., N)."""
        hidden = torch.cat([hidden.to(self.outer.weight) for hidden in hidden_BTD], dim=-1)
        return at_least_float32(self.outer(hidden))


GATES: dict[str, type[Gate]] = {
    "token": TokenGate,
    "joint": JointGate,
    "evidence": EvidenceGate,
    "constant": ConstantGate,
    "answer": AnswerGate,
}


def gate_options(kind: str) -> list[str]:
    """Names of the options that a gate of the table takes."""
    parameters = inspect.signature(lookup(GATES, kind, "gate.type")).parameters
    return [name for name in parameters if name != "hidden_sizes"]


def gate_settings(gate: str | Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The gate's settings in full, as the configuration keeps them: a later default must not change a checkpoint."""
    settings: dict[str, Any] = {"type": gate} if isinstance(gate, str) else dict(gate)
    kind = settings.setdefault("type", "token")
    if "hidden_size" in gate_options(kind) and settings.get("hidden_size") is None:
        settings["hidden_size"] = HIDDEN_SIZE
    for name, default in TEMPERATURE.items():
        if settings.get(name) in (None, default):
            settings.pop(name, None)
    return settings | {"seed": seed}


def build_gate(settings: Mapping[str, Any], hidden_sizes: Sequence[int]) -> Gate:
    """The gate that `settings` (`{"type": ..., "seed": ..., options}`) describes, weights not yet drawn."""
    kind = str(settings.get("type", "token"))
    known = gate_options(kind)
    apart = ("type", "seed", *TEMPERATURE)
    options = {name: value for name, value in settings.items() if name not in apart and value is not None}
    if "hidden_size" not in known:
        options.pop("hidden_size", None)  # a recipe carries the paper's default for every gate
    for name, value in options.items():
        if name not in known:
            choices = [*known, *TEMPERATURE]
            raise ValueError(f"gate.{name}: gate {kind!r} takes {', '.join(choices)}{did_you_mean(name, choices)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"gate.{name}: {value!r} is not a positive whole number")
    gate = GATES[kind](hidden_sizes, **options)
    gate.set_temperature(*_temperature(settings))
    return gate


def _temperature(settings: Mapping[str, Any]) -> tuple[float, bool]:
    """The temperature and whether it learns. Raises ValueError for what is no positive number, or no true/false."""
    value, learned = (settings.get(name, default) for name, default in TEMPERATURE.items())
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"gate.temperature: {value!r} is not a positive number; 1.0 leaves the gate as it is")
    if not isinstance(learned, bool):
        raise ValueError(f"gate.learn_temperature: {learned!r} is not true or false")
    return float(value), learned


def normalise(
    gate_logits_BTN: torch.Tensor, top_k: int | None = None, available_BTN: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax over the specialists, or over the `top_k` largest only: (..., N) -> (..., N) float32 that sums to one.

    `available_BTN` (..., N) bool: the others get weight 0, and do not count among the `top_k`. At least one must be.
    """
    gate_logits_BTN = at_least_float32(gate_logits_BTN)
    if available_BTN is not None:
        gate_logits_BTN = gate_logits_BTN.masked_fill(~available_BTN.to(gate_logits_BTN.device), float("-inf"))
    if top_k is not None and top_k < gate_logits_BTN.shape[-1]:
        kept = gate_logits_BTN.topk(top_k, dim=-1).indices
        keep = torch.zeros_like(gate_logits_BTN, dtype=torch.bool).scatter(-1, kept, True)
        gate_logits_BTN = gate_logits_BTN.masked_fill(~keep, float("-inf"))
    return gate_logits_BTN.softmax(dim=-1)
