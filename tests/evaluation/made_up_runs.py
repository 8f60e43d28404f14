"""Runs that nobody made: three models on a few benchmarks, with answers as hostile as a page can meet."""

import random
from pathlib import Path
from typing import Any

from ultrafuser.evaluation.record import Entry, Run

NASTY = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "{{ 7 * 7 }} {% raw %} &amp; &lt;b&gt; \u2028 \u2029 <!-- --> ]]>",
    "emoji 🦊👩‍🔬, right to left \u202eabc\u202c, half a pair \ud83d, a zero \x00, an escape \x1b[31mred",
    "long " + "word " * 20_000,
]
NAMES = ("text", "code", "math")


def benchmark_settings(items: int, **fields: Any) -> dict[str, Any]:
    return {
        "title": "GSM8K",
        "domain": "math",
        "metric": "accuracy",
        "higher_is_better": True,
        "reference": "someone, 2021",
        "licence": "MIT",
        "needs": "answers",
        "data": {"from": "file", "path": "/data/gsm8k.jsonl", "sha256": "ab" * 32, "records": items},
        "available": items,
        "items": items,
        "limit": None,
        "samples": 1,
        "seed": 0,
        "max_new_tokens": 512,
        "temperature": 0.0,
        "top_p": 1.0,
        "chain_of_thought": False,
    } | fields


def run_settings(name: str, benchmarks: dict[str, Any], specialists: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return {
        "format": 1,
        "model": name,
        "subject": {"kind": "fused", "specialists": list(specialists), "device": "cpu", "dtype": "float32"},
        "benchmarks": benchmarks,
        "calls": [
            {
                "date": "2026-01-02T03:04:05+00:00",
                "command": ["ultrafuser", "eval", name],
                "batch_size": 8,
                "versions": {"ultrafuser": "0.1.0", "torch": "2.13.0"},
            }
        ],
    }


def written(number: int, right: bool, rng: random.Random, specialists: tuple[str, ...]) -> Entry:
    question = f"What is {number} plus {number}?"
    weights = [rng.random() + (name == "math") for name in specialists]
    shares = {name: w / sum(weights) for name, w in zip(specialists, weights, strict=True)}
    answer = f"The answer is {2 * number if right else 2 * number + 1}."
    return Entry(
        id=f"gsm8k/{number}",
        group="even" if number % 2 == 0 else "odd",
        turns=[question],
        prompts={name: f"<{name}> {question} </{name}>" for name in specialists},
        answers=[answer],
        extracted=None if number % 11 == 10 else answer[14:-1],
        scores={"accuracy": float(right)},
        note="" if right else "differs from the reference",
        gate_weights=shares if len(specialists) > 1 else None,
        tokens=6 + number % 5,
        finished=number % 7 != 6,
        seconds=0.25,
    )


def lost(number: int, rng: random.Random, specialists: tuple[str, ...]) -> Entry:
    return Entry(
        id=f"loss/{number}",
        group=NAMES[number % 3],
        queries=[{"messages": [{"role": "user", "content": f"Say {number}."}], "continuations": [f"{number}"]}],
        likelihoods=[[[-3.5, 4]]],
        scores={"loss": 2 + rng.random()},
        weight=float(3 + number % 4),
        gate_weights={name: 1 / len(specialists) for name in specialists} if len(specialists) > 1 else None,
        tokens=3 + number % 4,
    )


def made_up_run(
    folder: Path, name: str, chance: float, *, items: int = 60, specialists: tuple[str, ...] = NAMES, **fields: Any
) -> Run:
    """A run that is right with `chance` on gsm8k and svamp; every item's difficulty is the same for all runs."""
    rng = random.Random(name)
    hardness = [random.Random(f"hard {n}").random() for n in range(items)]
    entries = {
        "gsm8k": [written(n, hardness[n] < chance, rng, specialists) for n in range(items)],
        "svamp": [written(n, hardness[n] < chance + 0.1, rng, specialists) for n in range(items // 2)],
        "loss": [lost(n, rng, specialists) for n in range(12)],
    }
    settings = {
        "gsm8k": benchmark_settings(items, **fields),
        "svamp": benchmark_settings(items // 2, title="SVAMP"),
        "loss": benchmark_settings(12, title="held-out loss", metric="loss", higher_is_better=False),
    }
    return Run(folder / name, run_settings(name, settings, specialists), entries)


def nasty_run(folder: Path, name: str = "nasty") -> Run:
    """A run whose every text is hostile, with names to match."""
    entries = [
        Entry(
            id=f"{number}{text[:40]}",
            group=text[:30],
            turns=[text],
            prompts={NASTY[1]: f"before {text} after", "code": text},
            answers=[text],
            extracted=text,
            scores={"accuracy": float(number % 2)},
            note=text[:200],
            detail={text[:20]: text},
            gate_weights={NASTY[1]: 0.75, "code": 0.25},
            tokens=3,
        )
        for number, text in enumerate(NASTY)
    ]
    settings = run_settings(NASTY[0], {"gsm8k": benchmark_settings(5, title=NASTY[0], licence=NASTY[1])})
    return Run(folder / name, settings, {"gsm8k": entries})
