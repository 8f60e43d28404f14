"""The table of benchmarks; a new one is a module here and a row in `BENCHMARKS`."""

from ultrafuser.evaluation.benchmark import Benchmark

__all__ = ["BENCHMARKS"]

_ROWS: tuple[Benchmark, ...] = ()

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ROWS}
