"""Evaluation: benchmarks, sandbox, judges, statistics, the record of runs and their comparison. Light to import."""
