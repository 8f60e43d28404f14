"""Made-up demo numbers: any table of losses, with items, curves and answers that fit it."""

from __future__ import annotations

import random

from ultrafuser.demo.results import (
    COLUMNS,
    DOMAINS,
    Curve,
    DemoDetails,
    DemoResult,
    Example,
    Item,
    Losses,
    Token,
)
from ultrafuser.demo.statistics import loss_by_domain, paired_differences, sample_oracle, weights_by_domain

NAMES = ["text", "code", "math"]

GOOD = {
    "text": {"text": 3.2, "code": 4.9, "math": 4.6, "composite": 4.0},
    "code": {"text": 5.1, "code": 1.8, "math": 4.4, "composite": 3.9},
    "math": {"text": 5.4, "code": 5.2, "math": 1.9, "composite": 4.2},
    "uniform": {"text": 3.6, "code": 3.3, "math": 3.2, "composite": 3.5},
    "further_tuned": {"text": 3.9, "code": 2.3, "math": 2.8, "composite": 3.1},
    "uniform_stage2": {"text": 3.2, "code": 2.1, "math": 2.3, "composite": 2.8},
    "stage1": {"text": 3.3, "code": 1.87, "math": 2.07, "composite": 3.0},
    "stage2": {"text": 3.0, "code": 1.75, "math": 1.8, "composite": 2.5},
}


def made_up(losses: dict[str, dict[str, float]] | None = None, *, spread: float = 0.02, n_items: int = 30):
    """A result and its details for a table of losses; right specialists get weight 0.7."""
    table = losses or GOOD
    rng = random.Random(1)
    tokens = {(d, i): rng.randint(40, 120) for d in COLUMNS for i in range(n_items)}
    items = {}
    for method, by_domain in table.items():
        items[method] = [
            Item(
                id=f"{domain}-{i}",
                category=domain,
                n_tokens=tokens[domain, i],
                loss_sum=tokens[domain, i] * (by_domain[domain] + rng.gauss(0, spread)),
                weights=_weights(domain, rng),
            )
            for domain in COLUMNS
            for i in range(n_items)
        ]
    best, _ = sample_oracle({name: items[name] for name in NAMES})
    means = {method: {d: table[method][d] for d in COLUMNS} for method in table}
    oracle = loss_by_domain(best)
    weights = weights_by_domain(items["stage2"], NAMES)
    result = DemoResult(
        loss=Losses(
            specialists={name: means[name] for name in NAMES},
            sample_oracle=oracle,
            **{key: means[key] for key in ("uniform", "further_tuned", "uniform_stage2", "stage1", "stage2")},
        ),
        gate_weights=weights,
        gate_weights_stage1=weights_by_domain(items["stage1"], NAMES),
        seconds={"total": 291.4, "stage1": 40.0},
        differences={
            "stage1_minus_sample_oracle": paired_differences(items["stage1"], best),
            "stage2_minus_further_tuned": paired_differences(items["stage2"], items["further_tuned"]),
            "stage2_minus_uniform_stage2": paired_differences(items["stage2"], items["uniform_stage2"]),
        },
        oracle_choice={d: dict.fromkeys(NAMES, 1 / 3) for d in COLUMNS},
        seed=0,
        fast=False,
        base="code",
        base_validation_loss={"text": 4.0, "code": 3.5, "math": 4.2},
        steps={"stage1": 60, "stage2": 90, "uniform_stage2": 90, "further_tuned": 90},
        examples_per_step={"stage1": 24, "stage2": 12, "uniform_stage2": 12, "further_tuned": 12},
        items=dict.fromkeys(COLUMNS, n_items),
        tokens={d: sum(tokens[d, i] for i in range(n_items)) for d in COLUMNS},
        training_items=dict.fromkeys(DOMAINS, 150),
        parameters={"fused": 3_100_000, "further_tuned": 1_000_000},
        version="0.1.0",
    )
    return result, DemoDetails(items=items, curves=_curves(rng), examples=[_example(rng, False), _example(rng, True)])


def _weights(domain: str, rng: random.Random) -> list[float]:
    raw = [0.3 + 0.1 * rng.random() + (0.9 if name == domain else 0.3 * (domain == "composite")) for name in NAMES]
    return [value / sum(raw) for value in raw]


def _curves(rng: random.Random) -> list[Curve]:
    shapes = {"stage1": (60, 3.4, 2.9), "stage2": (90, 2.9, 2.3), "uniform_stage2": (90, 3.5, 2.5)}
    shapes["further_tuned"] = (90, 4.2, 3.0)
    curves = []
    for name, (n, start, end) in shapes.items():
        steps = list(range(1, n + 1))
        loss = [end + (start - end) * 0.96**k + rng.gauss(0, 0.12) for k in steps]
        curves.append(
            Curve(
                name=name, steps=steps, loss=loss, validation_steps=[n // 2, n], validation_loss=[end + 0.3, end + 0.1]
            )
        )
    return curves


def _example(rng: random.Random, written: bool) -> Example:
    code = "def total(xs):\n    return sum(xs)"
    text = f"A loop adds the numbers: \n\n{code}\n\nSo 3 + 4 = 7 & 7 < 8. <script>alert(1)</script>"
    words = [text[i : i + 4] for i in range(0, len(text), 4)]
    tokens = []
    for word in words:
        raw = [rng.random() ** 2 for _ in NAMES]
        tokens.append(Token(text=word, weights=[value / sum(raw) for value in raw]))
    prompt = 'Write a function & say what "3 < 4" means. <b>now</b>'
    return Example(id="composite-0", domain="composite", prompt=prompt, written=written, tokens=tokens)
