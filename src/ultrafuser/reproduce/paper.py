"""The figures of Ding et al., "Fusing Highly Specialized Language Models for Comprehensive Expertise", ACL 2025."""

from __future__ import annotations

BENCHMARKS = ("TruthfulQA", "AlpacaEval", "HumanEval", "GSM8K", "MATH", "SAT-Math", "AQuA")
DOMAIN_OF = {"TruthfulQA": "text", "AlpacaEval": "text", "HumanEval": "code"}  # the others are math
AVERAGE = "average"

# Table 1: scores in percent, higher is better.
TABLE_1: dict[str, tuple[float, ...]] = {
    "text": (58.82, 83.23, 25.61, 25.09, 4.48, 25.00, 25.98),
    "code": (56.89, 69.21, 48.78, 23.12, 6.16, 27.73, 25.59),
    "math": (26.81, 51.50, 10.98, 56.18, 12.20, 29.55, 22.05),
    "best specialist": (58.82, 83.23, 48.78, 56.18, 12.20, 29.55, 25.98),
    "best further tuned": (58.82, 73.34, 40.24, 54.59, 10.46, 29.55, 28.74),
    "one model": (46.99, 65.33, 38.41, 52.31, 8.88, 35.00, 32.28),
    "task arithmetic": (12.99, 1.75, 0.00, 3.71, 1.46, 3.64, 0.79),
    "average": (53.62, 67.08, 25.00, 51.48, 12.06, 25.91, 18.90),
    "BTX": (34.82, 9.76, 20.73, 11.14, 4.14, 21.82, 20.47),
    "FuseChat": (64.98, 74.77, 27.44, 27.90, 5.54, 15.91, 12.20),
    "UltraFuser": (64.67, 82.35, 53.03, 54.59, 11.36, 30.00, 26.38),
}
FURTHER_TUNED = {"text": 41.60, "code": 21.76, "math": 36.94}  # averages of the specialists tuned on everything
SUBSET_TUNED = {"math": 33.17, "code": 38.03}  # Table 8: the averages of a specialist tuned on its own subset
PRINTED_AVERAGE = 47.48  # of UltraFuser; the columns average 46.05

# Table 2, best checkpoint of each; the column stands for the domain.
TABLE_2: dict[str, dict[str, float]] = {
    "direct": {"text": 51.17, "code": 46.95, "math": 53.83},
    "two stages": {"text": 61.72, "code": 50.00, "math": 52.69},
    "balanced": {"text": 64.67, "code": 53.05, "math": 54.59},
}
TABLE_2_BENCHMARKS = {"text": "TruthfulQA", "code": "HumanEval", "math": "GSM8K"}

# Table 3: average loss of each specialist (row) in each domain (column).
TABLE_3: dict[str, dict[str, float]] = {
    "text": {"text": 0.046, "code": 0.055, "math": 0.063},
    "code": {"text": 0.060, "code": 0.042, "math": 0.056},
    "math": {"text": 0.062, "code": 0.064, "math": 0.036},
}

# Table 4: mean and deviation over 12 checkpoints, of the benchmarks of Table 2, without and with the balanced sampler.
TABLE_4: dict[str, dict[str, dict[str, float]]] = {
    "mean": {
        "random": {"text": 57.54, "code": 48.27, "math": 52.91},
        "balanced": {"text": 59.91, "code": 53.68, "math": 53.77},
    },
    "sd": {
        "random": {"text": 2.80, "code": 4.92, "math": 1.76},
        "balanced": {"text": 1.96, "code": 2.74, "math": 1.74},
    },
}
OTHER_DATA_AVERAGE = 45.14  # Table 9: UltraChat + MathInstruct + Evol-Instruct in place of UltraChat 2
TABLE_10 = {"asked": 30.58, "thought": 34.21}  # mean score in mathematics, as asked and with chain of thought

# Table 5: MT-Bench, mean rating of 1 to 10, of the best of three answers after the fact and of the fused model.
TABLE_5 = {"selection": 6.84, "UltraFuser": 7.02}

# Table 6: mean gate weight of each specialist (row) on each domain's data (column).
TABLE_6: dict[str, dict[str, float]] = {
    "text": {"text": 0.45, "code": 0.23, "math": 0.18},
    "code": {"text": 0.29, "code": 0.59, "math": 0.39},
    "math": {"text": 0.26, "code": 0.18, "math": 0.43},
}


def scores(row: str) -> dict[str, float]:
    """A row of Table 1 by benchmark, with the average of its columns."""
    found = dict(zip(BENCHMARKS, TABLE_1[row], strict=True))
    return {**found, AVERAGE: round(sum(TABLE_1[row]) / len(BENCHMARKS), 2)}
