"""Runs that put the models of earlier runs to the paper's benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Result, Run

SPECIALIST = "specialist"


def tasks_run(plan: Plan, source: Run | str, *, name: str = "tasks", **options: Any) -> Run:
    """Benchmarks asked of the model that the run `source` left, or of a specialist as it is, by its name.

    result["scores"] holds score, interval and number of items by benchmark; everything that was asked and answered lies
    in the run's folder, an ordinary one of `ultrafuser eval`. `options` are evaluation.plan.Options; `benchmarks`
    replaces the scale's.
    """
    scale = plan.settings
    benchmarks = list(options.pop("benchmarks", scale.benchmarks))
    inputs = {
        "benchmarks": benchmarks,
        "data": plan.benchmark_data,
        "digest": plan.benchmark_digest,
        "options": {"limit": scale.benchmark_limit, **options},
    }
    cost = 5.0 + 10.0 * len(benchmarks)
    if isinstance(source, str):
        return Run(f"{name}/{SPECIALIST}-{source}", score_tasks, {**inputs, SPECIALIST: source}, cost=cost)
    return Run(f"{name}/{source.name}", score_tasks, {**inputs, "model": source.name}, after=(source,), cost=cost)


def score_tasks(context: Context, inputs: dict[str, Any], found: dict[str, Result]) -> Result:
    """Ask and grade everything, or what is left of it; a model that was never made scores nothing."""
    from ultrafuser.evaluation.runner import evaluate
    from ultrafuser.evaluation.subjects.local import LocalSubject
    from ultrafuser.evaluation.tools import Tools

    if "model" in inputs and not found[inputs["model"]].get("folder"):
        return {"scores": {}, "why": "no model of its own"}
    model, tokenizer, name = open_subject(context, inputs, found)
    tasks = _tasks(inputs["benchmarks"], inputs["data"], inputs["options"])
    subject = LocalSubject(model, tokenizer, name=name)
    with Tools() as tools:
        run = evaluate(
            subject,
            tasks,
            tools,
            context.folder / "answers",
            on_progress=lambda at: context.report(f"ask {at.benchmark}", at.done, at.total, None),
        )
    return {"scores": {name: _score(run.summary[name]) for name in inputs["benchmarks"]}}


def open_subject(context: Context, inputs: Mapping[str, Any], found: Mapping[str, Result]) -> tuple[Any, Any, str]:
    """Model, tokenizer and folder's name of what `inputs` name: the "model" of an earlier run, or a "specialist"."""
    from ultrafuser.baselines.scores import open_made

    setting = context.setting(0)
    earlier = found[inputs["model"]] if "model" in inputs else None
    folder = setting.origins[inputs[SPECIALIST]].path if earlier is None else context.path_of(earlier)
    return open_made(setting, folder), setting.tokenizer, Path(folder).name


def _tasks(names: Sequence[str], data: str, options: dict[str, Any]) -> list[Any]:
    from ultrafuser.evaluation.benchmarks import BENCHMARKS
    from ultrafuser.evaluation.data import load_records
    from ultrafuser.evaluation.plan import Options, make_task

    asked = Options(**options)
    return [make_task(BENCHMARKS[name], load_records(BENCHMARKS[name].source, data), asked) for name in names]


def _score(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: summary.get(key) for key in ("metric", "score", "ci95", "n")}
