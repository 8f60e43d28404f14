"""Gate, loss and gradient over stored logits, a few positions at a time, so that they stay in the processor's cache.

For the paper's gate on a CPU. The plain way beside it is the gate's own `forward` and `stored_loss.dense_loss`; a test
compares the two. Legend: M response positions of a batch laid end to end, R of them, N specialists, D hidden, V
vocabulary, H the gate's inner width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ultrafuser.modeling.gate import Gate, TokenGate, normalise
from ultrafuser.training.stored_loss import dense_rows, parts

__all__ = ["GateStep", "gate_step", "serves"]


class GateStep(NamedTuple):
    """The sum of the losses, which alone has a gradient; losses (M,) in nats and gate weights (M, N)."""

    total: torch.Tensor
    loss: torch.Tensor
    weights: torch.Tensor


def serves(gate: Gate, labels_M: torch.Tensor) -> bool:
    """Whether `gate_step` can take this gate: the paper's, nothing before or after it, all of it learning, on a CPU."""
    learning = torch.is_grad_enabled() and all(parameter.requires_grad for parameter in gate.parameters())
    plain = type(gate) is TokenGate and not gate.projections and not gate.tempered
    return plain and learning and labels_M.device.type == "cpu"


def gate_step(
    gate: TokenGate,
    top_k: int | None,
    hidden_MD: Sequence[torch.Tensor],
    pieces: Sequence[Sequence[torch.Tensor]],
    labels_M: torch.Tensor,
) -> GateStep:
    """What the gate gives and how its loss falls, for `pieces` as `dense_loss` takes them."""
    parameters = (gate.inner.weight, gate.inner.bias, gate.outer.weight)
    weights_MN = torch.empty(len(labels_M), len(hidden_MD))
    loss_M, slope_MN = torch.empty(len(labels_M)), torch.zeros_like(weights_MN)
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    with torch.no_grad():
        for here, values_NRV in _cut(pieces):
            states_RD = torch.cat([hidden[here] for hidden in hidden_MD]).to(gate.inner.weight)
            active_RH = torch.addmm(gate.inner.bias, states_RD, gate.inner.weight.t()).relu_()
            scores_NR = (active_RH @ gate.outer.weight[0]).view(len(hidden_MD), -1)
            weights_MN[here] = weights_RN = normalise(scores_NR.t(), top_k)
            dense_rows(weights_RN, values_NRV, labels_M[here, None], loss_M[here], slope_MN[here])
            mean_R1 = (weights_RN * slope_MN[here]).sum(-1, keepdim=True)
            _add_gradients(gradients, states_RD, active_RH, (weights_RN * (slope_MN[here] - mean_R1)).t().flatten())
        gradients[0].mul_(gate.outer.weight.t())
        gradients[1].mul_(gate.outer.weight[0])
    return GateStep(_Known.apply(loss_M.sum(), gradients, *parameters), loss_M, weights_MN)


def _cut(pieces: Sequence[Sequence[torch.Tensor]]) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Each part's place among all positions, and its N tensors (R, V)."""
    at = 0
    for piece in pieces:
        for rows in parts(piece[0]):
            yield slice(at + rows.start, at + rows.stop), [values[rows] for values in piece]
        at += len(piece[0])


def _add_gradients(
    gradients: Sequence[torch.Tensor], states_RD: torch.Tensor, active_RH: torch.Tensor, pull_R: torch.Tensor
) -> None:
    """Add a part's gradients, those of the inner layer still without the outer weights; the inputs are used up."""
    inner_HD, bias_H, outer_1H = gradients
    outer_1H[0].addmv_(active_RH.t(), pull_R)
    open_HR = active_RH.sign_().t()  # where ReLU lets a gradient through
    bias_H.addmv_(open_HR, pull_R)
    inner_HD.addmm_(open_HR, states_RD.mul_(pull_R.unsqueeze(-1)))


class _Known(Function):
    """A sum whose gradients by the parameters are known already."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, total: torch.Tensor, gradients: Sequence[torch.Tensor], *parameters: torch.Tensor
    ) -> torch.Tensor:
        """The sum as it was given."""
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """Gradients for the parameters only."""
        return None, None, *(gradient * known for known in ctx.gradients)
