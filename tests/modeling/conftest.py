"""The slow truth that the fused model is held against: a float64 loop over plain Transformers models, one by one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch


class Reference:
    """Plain models opened in float64 and a gate computed by hand from the fused model's gate weights."""

    def __init__(self, folders: Sequence[Path], fused) -> None:
        from transformers import AutoModelForCausalLM

        self.models = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float64) for f in folders]
        gate = {name: value.detach().double() for name, value in fused.gate.state_dict().items()}
        self.first, self.bias, self.second = gate["inner.weight"], gate["inner.bias"], gate["outer.weight"]
        self.projections = [gate.get(f"projections.{j}.weight") for j in range(len(folders))]

    @torch.no_grad()
    def logits(self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], rule: str = "logits"):
        """Fused logits (K, V), weights (K, N) at `positions[j]` of `sequences[j]`, one unpadded sequence at a time."""
        scores, logits = [], []
        for model, ids, where, projection in zip(self.models, sequences, positions, self.projections, strict=True):
            output = model(torch.tensor([list(ids)]), output_hidden_states=True)
            hidden = output.hidden_states[-1][0, list(where)]
            hidden = hidden if projection is None else hidden @ projection.T
            scores.append((self.second @ (self.first @ hidden.T + self.bias[:, None]).clamp_min(0))[0])
            logits.append(output.logits[0, list(where)])
        weights = torch.stack(scores, dim=-1).softmax(-1)
        if rule == "probabilities":
            mixed = sum(weights[:, j : j + 1] * o.softmax(-1) for j, o in enumerate(logits))
            return mixed.log(), weights
        return sum(weights[:, j : j + 1] * o for j, o in enumerate(logits)), weights

    def greedy(self, prompts: Sequence[Sequence[int]], steps: int, eos: int | None = None) -> list[int]:
        """Greedy tokens, everything computed again at every step."""
        answer: list[int] = []
        for _ in range(steps):
            sequences = [[*prompt, *answer] for prompt in prompts]
            fused, _ = self.logits(sequences, [[len(sequence) - 1] for sequence in sequences])
            answer.append(int(fused[0].argmax()))
            if answer[-1] == eos:
                break
        return answer


@pytest.fixture
def reference() -> Callable[..., Reference]:
    """`reference(folders, fused)`: the float64 loop."""
    return Reference


@pytest.fixture(scope="session")
def unequal_prompts() -> list[list[list[int]]]:
    """[example][specialist][ids]: three examples, all prompts of different length."""
    generator = torch.Generator().manual_seed(5)
    lengths = [[3, 7, 12], [5, 2, 4], [9, 11, 1]]
    return [
        [torch.randint(3, 290, (length,), generator=generator).tolist() for length in example] for example in lengths
    ]
