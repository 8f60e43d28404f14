"""The table of benchmarks; a new one is a module here and a row in `BENCHMARKS`."""

from ultrafuser.evaluation.benchmark import Benchmark
from ultrafuser.evaluation.benchmarks.alpaca_eval import ALPACA_EVAL, ALPACA_EVAL_2
from ultrafuser.evaluation.benchmarks.gsm8k import GSM8K
from ultrafuser.evaluation.benchmarks.humaneval import HumanEval, HumanEvalPlus, InstructHumanEval
from ultrafuser.evaluation.benchmarks.loss import ResponseLoss
from ultrafuser.evaluation.benchmarks.math import MATH
from ultrafuser.evaluation.benchmarks.mbpp import MBPP
from ultrafuser.evaluation.benchmarks.mt_bench import MTBench
from ultrafuser.evaluation.benchmarks.multiple_choice import AQuA, SATMath
from ultrafuser.evaluation.benchmarks.svamp import SVAMP
from ultrafuser.evaluation.benchmarks.truthfulqa import TruthfulQA, TruthfulQAChoices

__all__ = ["BENCHMARKS"]

_ROWS: tuple[Benchmark, ...] = (
    ALPACA_EVAL,
    ALPACA_EVAL_2,
    AQuA(),
    GSM8K(),
    HumanEval(),
    HumanEvalPlus(),
    InstructHumanEval(),
    ResponseLoss(),
    MATH(),
    MBPP(),
    MTBench(),
    SATMath(),
    SVAMP(),
    TruthfulQA(),
    TruthfulQAChoices(),
)

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ROWS}
