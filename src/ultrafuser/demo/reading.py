"""Says in sentences what the numbers of a demo run show, for the method and against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ultrafuser.demo.results import COLUMNS, COMPOSITE, DOMAINS, ByDomain, DemoResult, Difference

Verdict = Literal["yes", "no", "even"]

WHY_CONTROL_WINS = (
    "With the weights held equal every specialist learns from every example, and together they are an ensemble: that "
    "pays on a small sample, and on answers of a kind that the gate was not trained on (nothing composite is in the "
    "training data), where it is too sure of itself: a softer gate, composite training examples, or specialists that "
    "are further apart should favour it."
)
WHY_FURTHER_WINS = (
    "It pays to train one model on everything while that model still has much to learn: all steps go into one network. "
    "Specialists trained closer to saturation, or more domains than one small network can hold, would favour fusion."
)
WHY_ORACLE_WINS = (
    "Choosing one specialist per item is then as good as mixing per token: the answers hardly change their kind "
    "midway, or the gate has had too few steps. More steps in stage 1, or answers that mix kinds more, would change it."
)


@dataclass(frozen=True)
class Finding:
    """One claim put to the test: `verdict` yes, no or even (too close to call), and the sentence that says so."""

    key: str
    verdict: Verdict
    text: str


def findings(result: DemoResult) -> list[Finding]:
    """All sentences of the honest reading, in the order of the report."""
    return [
        _beats_specialists(result),
        _gate_finds_right(result),
        _tokens_beat_samples(result),
        _against(result, "uniform_stage2", "the uniform control", WHY_CONTROL_WINS),
        _against(result, "further_tuned", f"the further-tuned {result.base} specialist", WHY_FURTHER_WINS),
        _stage2_over_stage1(result),
        _cost(result),
    ]


def best_specialist(result: DemoResult, domain: str) -> tuple[str, float]:
    """Name and loss of the specialist with the lowest held-out loss in a domain."""
    return min(((name, losses[domain]) for name, losses in result.loss.specialists.items()), key=lambda pair: pair[1])


def _beats_specialists(result: DemoResult) -> Finding:
    won: list[str] = []
    lost: list[str] = []
    for domain in COLUMNS:
        name, loss = best_specialist(result, domain)
        fused = result.loss.stage2[domain]
        (won if fused < loss else lost).append(f"{domain} ({fused:.2f} against {loss:.2f} of {name})")
    if not lost:
        text = f"The fused model is better than the best specialist everywhere: {_listed(won)} nats per token."
    elif not won:
        text = f"The fused model is nowhere better than the best specialist: {_listed(lost)} nats per token."
    else:
        start = f"The fused model is better than the best specialist on {_listed(won)} nats per token"
        text = f"{start}, but not on {_listed(lost)}."
    return Finding("beats_specialists", "yes" if not lost else "no", text)


def _gate_finds_right(result: DemoResult) -> Finding:
    right: list[str] = []
    wrong: list[str] = []
    for domain in DOMAINS:
        weights = result.gate_weights[domain]
        name = max(weights, key=lambda key: weights[key])
        entry = f"{weights[name]:.2f} on {name} in {domain}"
        (right if name == result.right_specialist(domain) else wrong).append(entry)
    if not wrong:
        text = f"Nobody told the gate the domain, yet it gives most weight to the right specialist: {_listed(right)}."
    else:
        found = f"; it does find it elsewhere: {_listed(right)}" if right else ""
        text = f"The gate does not always give most weight to the right specialist: {_listed(wrong)}{found}."
    return Finding("gate_finds_right", "yes" if not wrong else "no", text)


def _tokens_beat_samples(result: DemoResult) -> Finding:
    fused, oracle = result.loss.stage1[COMPOSITE], result.loss.sample_oracle[COMPOSITE]
    gap = result.differences["stage1_minus_sample_oracle"][COMPOSITE]
    numbers = f"{fused:.2f} against {oracle:.2f} nats per token on the composite items{_interval(gap)}"
    claim = "choosing, with the answer known, the one best specialist for each item"
    if fused < oracle and gap.sign < 0:
        text = f"With the specialists still untouched (stage 1), weighing per token beats {claim}: {numbers}."
        return Finding("tokens_beat_samples", "yes", text)
    if gap.sign > 0:
        text = f"With the specialists still untouched (stage 1), weighing per token loses to {claim}: {numbers}."
        return Finding("tokens_beat_samples", "no", f"{text} {WHY_ORACLE_WINS}")
    text = f"Stage 1 and {claim}, are too close to call: {numbers}. {WHY_ORACLE_WINS}"
    return Finding("tokens_beat_samples", "even", text)


def _against(result: DemoResult, method: str, label: str, why: str) -> Finding:
    """Fused after stage 2 against another trained model, domain by domain."""
    gaps = result.differences[f"stage2_minus_{method}"]
    other: ByDomain = getattr(result.loss, method)

    def entries(keep: Callable[[Difference], bool]) -> list[str]:
        return [
            f"{domain} ({result.loss.stage2[domain]:.2f} against {other[domain]:.2f})"
            for domain in COLUMNS
            if keep(gaps[domain])
        ]

    won, lost = entries(lambda gap: gap.sign < 0), entries(lambda gap: gap.sign > 0)
    even = entries(lambda gap: gap.sign == 0)
    parts = []
    if won:
        parts.append(f"the fused model beats {label} on {_listed(won)}")
    if lost:
        parts.append(f"{label} wins on {_listed(lost)}")
    if even:
        parts.append(f"too close to call on {_listed(even)}")
    text = _sentence("; ".join(parts))
    behind = [domain for domain in COLUMNS if gaps[domain].mean > 0]  # lost, or level and nominally worse
    verdict: Verdict = "no" if lost else "even" if behind or not won else "yes"
    return Finding(f"against_{method}", verdict, f"{text} {why}" if behind else text)


def _stage2_over_stage1(result: DemoResult) -> Finding:
    moves = {domain: result.loss.stage2[domain] - result.loss.stage1[domain] for domain in COLUMNS}
    listed = _listed([f"{domain} {move:+.2f}" for domain, move in moves.items()])
    if all(move < 0 for move in moves.values()):
        return Finding("stage2_over_stage1", "yes", f"Stage 2 improves on stage 1 everywhere: {listed} nats per token.")
    worse = _listed([domain for domain, move in moves.items() if move >= 0])
    text = f"Stage 2 does not improve on stage 1 on {worse} ({listed} nats per token): a lower rate may help."
    return Finding("stage2_over_stage1", "no", text)


def _cost(result: DemoResult) -> Finding:
    fused, single = result.parameters["fused"], result.parameters["further_tuned"]
    text = (
        f"None of this is free: the fused model runs {fused / 1e6:.1f} million parameters for every token, the "
        f"further-tuned specialist {single / 1e6:.1f} million. They had equal examples and equal full steps, not equal "
        "compute. One seed is one draw: the intervals speak of other items, not of other seeds."
    )
    return Finding("cost", "even", text)


def _interval(gap: Difference) -> str:
    return f" (difference {gap.mean:+.3f}, 95% interval {gap.low:+.3f} to {gap.high:+.3f})"


def _listed(entries: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(entries) < 2:
        return "".join(entries)
    return f"{', '.join(entries[:-1])} and {entries[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
