"""Mean and standard deviation of several demo runs, as a Markdown table, and what must hold in each of them.

for s in 0 1 2; do ultrafuser demo --seed $s --output runs/seed-$s; done
python benchmarks/demo_seeds.py runs/seed-*/result.json
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from ultrafuser.demo import DemoResult
from ultrafuser.demo.reading import best_specialist
from ultrafuser.demo.report import loss_rows
from ultrafuser.demo.results import COLUMNS, COMPOSITE, DOMAINS


def main(paths: list[str]) -> None:
    """Read the runs, print both tables and the checks."""
    if not paths:
        sys.exit(__doc__)
    runs = [DemoResult.model_validate_json(Path(path).read_text(encoding="utf-8")) for path in paths]
    print(f"seeds {', '.join(str(run.seed) for run in runs)}; further tuned: {', '.join(run.base for run in runs)}\n")
    _table("held-out loss, nats per response token", _loss_lines(runs))
    _table("mean gate weight after stage 2", _weight_lines(runs))
    _table("stage 2 against", _difference_lines(runs))
    for claim, holds in _checks(runs).items():
        print(f"- {claim}: {sum(holds)} of {len(holds)} runs")
    seconds = [run.seconds["total"] for run in runs]
    print(f"- seconds: {', '.join(f'{value:.0f}' for value in seconds)}")


def _loss_lines(runs: list[DemoResult]) -> dict[str, dict[str, list[float]]]:
    lines: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for row in loss_rows(run):
            for domain in COLUMNS:
                lines.setdefault(row.label, {}).setdefault(domain, []).append(row.losses[domain])
    return lines


def _weight_lines(runs: list[DemoResult]) -> dict[str, dict[str, list[float]]]:
    return {name: {d: [run.gate_weights[d][name] for run in runs] for d in COLUMNS} for name in runs[0].names}


def _difference_lines(runs: list[DemoResult]) -> dict[str, dict[str, list[float]]]:
    keys = [key for key in runs[0].differences if key.startswith("stage2_minus_")]
    return {
        key.removeprefix("stage2_minus_"): {d: [run.differences[key][d].mean for run in runs] for d in COLUMNS}
        for key in keys
    }


def _checks(runs: list[DemoResult]) -> dict[str, list[bool]]:
    return {
        "stage 2 below the best specialist in every domain": [
            all(run.loss.stage2[d] < best_specialist(run, d)[1] for d in DOMAINS) for run in runs
        ],
        "largest mean gate weight on the right specialist in every domain": [
            all(
                max(run.gate_weights[d], key=run.gate_weights[d].__getitem__) == run.right_specialist(d)
                for d in DOMAINS
            )
            for run in runs
        ],
        "stage 1 below the per-sample oracle on composite items": [
            run.loss.stage1[COMPOSITE] < run.loss.sample_oracle[COMPOSITE] for run in runs
        ],
    }


def _largest(weights: dict[str, float]) -> str:
    return max(weights, key=lambda name: weights[name])


def _table(title: str, lines: dict[str, dict[str, list[float]]]) -> None:
    print(f"| {title} | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for label, by_domain in lines.items():
        print(f"| {label} | {' | '.join(_mean_sd(by_domain[domain]) for domain in COLUMNS)} |")
    print()


def _mean_sd(values: list[float]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
