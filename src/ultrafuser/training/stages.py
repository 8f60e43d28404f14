"""The loop over stages: each one is trained, or taken from its folder where it is already done.

A run killed at any moment and started again ends with the same weights, bit for bit, as one left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from transformers import TrainerCallback

from ultrafuser.data import ResponseDataset
from ultrafuser.recipe import StageConfig
from ultrafuser.training.parameters import TRAINABLE, fingerprint_of_weights, load_weights, set_formats, thaw
from ultrafuser.training.results import StageResult, TrainingResult
from ultrafuser.training.run import Run
from ultrafuser.training.work import STATES, describe_stage, locked, open_work, refuse_model, work_folder

__all__ = ["run_stages"]

AfterStage = Callable[[StageConfig, Any], None]


def run_stages(
    model: Any,
    tokenizer: Any,
    stages: Sequence[StageConfig],
    train: ResponseDataset,
    validation: ResponseDataset | None,
    output_dir: str | Path,
    *,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = True,
    forced_gate_weights: Sequence[float] | None = None,
    overwrite: bool = False,
    keep: Literal["last", "best"] = "last",
    recipe: dict[str, Any] | None = None,
    before_stages: Callable[[], None] | None = None,
    after_stage: AfterStage | None = None,
    eval_batch_size: int = 16,
    tensorboard: bool = True,
    states_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> TrainingResult:
    """Train `model` in place through all stages; checkpoints, history and TensorBoard go to `output_dir`/work.

    Called again after an interruption, with the model as it was at first, it goes on where it was. `keep` says which
    weights a stage hands on: its last, or those of its best validation loss. `recipe` (plain JSON) joins the
    fingerprint that guards against going on with other settings. `before_stages()` is called when everything has been
    checked and the folder is open, with the weights as they came; `after_stage(stage, model)` is called with each
    stage's weights in place, stages taken from their folder included. `forced_gate_weights` (N,) replaces the gate.
    Stages with `stored_states` keep them in `states_dir`, by default `output_dir`/work/states: one folder serves runs
    with other gates and seeds. `say` is told what storing needs and how far it is.

    Raises ValueError on bad settings before anything is trained, TrainingDiverged on a loss that is not finite,
    TrainingInterrupted when asked to stop by a signal.
    """
    stages = list(stages)
    _check(model, stages, train, validation, forced_gate_weights, keep)
    run = Run(
        model=model,
        pad_token_id=getattr(tokenizer, "pad_token_id", None),
        stages=stages,
        train=train,
        validation=validation,
        work=work_folder(output_dir),
        seed=seed,
        callbacks=list(callbacks),
        forced=forced_gate_weights,
        keep=keep,
        eval_batch_size=eval_batch_size,
        tensorboard=tensorboard,
        states=work_folder(output_dir) / STATES if states_dir is None else Path(states_dir),
        say=say,
    )
    refuse_model(Path(output_dir), overwrite)
    with locked(Path(output_dir)) if run.is_main else nullcontext():
        if run.is_main:
            open_work(Path(output_dir), _fingerprint(run, recipe), resume=resume, overwrite=overwrite)
        PartialState().wait_for_everyone()
        if before_stages is not None:
            before_stages()
        return _through(run, after_stage)


def _fingerprint(run: Run, recipe: dict[str, Any] | None) -> dict[str, Any]:
    """What decides the weights that a run ends with; a run is gone on with only when it is the same."""
    return {
        "stages": [describe_stage(stage) for stage in run.stages],
        "seed": run.seed,
        "keep": run.keep,
        **({"validation": run.validation.content_hash()} if run.keep == "best" and run.validation is not None else {}),
        "forced_gate_weights": None if run.forced is None else [float(weight) for weight in run.forced],
        "train": {"examples": run.train.counts(), "sha256": run.train.content_hash()},
        "weights": fingerprint_of_weights(run.model),
        **({"recipe": recipe} if recipe is not None else {}),
    }


def _through(run: Run, after_stage: AfterStage | None) -> TrainingResult:
    """All stages in order; the model is left with everything thawed, in eval mode, in its own number formats."""
    results: list[StageResult] = []
    history = run.history()
    try:
        with run.stop.listening(wanted=PartialState().num_processes == 1):
            for place, stage in enumerate(run.stages):
                folder = run.folder(place)
                set_formats(run.model, run.half, learning=stage.train != "gate")
                record, restored = folder.done(), True
                if record is None:
                    record, restored = run.train_stage(place, history, results[-1].after if results else None), False
                if restored or run.keep == "best":
                    load_weights(run.model, folder.path / record["weights"])
                results.append(StageResult(**{k: v for k, v in record.items() if k != "weights"}))
                if after_stage is not None:
                    after_stage(stage, run.model)
    finally:
        set_formats(run.model, run.half, learning=False)
        thaw(run.model)
        run.model.eval()
    _note_training(run)
    return TrainingResult(history.entries, results)


def _note_training(run: Run) -> None:
    """Write into the model's configuration how long, and on what, its gate was trained."""
    learnt = [stage for stage in run.stages if TRAINABLE[stage.train][0]]
    before = dict(run.model.config.gate_training or {})
    tokens, shares = run.train.response_tokens(), run.train.participation() or {}
    names = run.model.config.specialist_names
    run.model.config.gate_training = {
        "trained": bool(before.get("trained")) or bool(learnt),
        "stages": [*before.get("stages", []), *(stage.model_dump() for stage in run.stages)],
        "data": {
            name: {"examples": count, "response_tokens": tokens[name]}
            | ({"participation": dict(zip(names, shares[name], strict=True))} if name in shares else {})
            for name, count in run.train.counts().items()
        },
        "seed": run.seed,
    }


def _check(
    model: Any,
    stages: Sequence[StageConfig],
    train: ResponseDataset,
    validation: ResponseDataset | None,
    forced: Sequence[float] | None,
    keep: str,
) -> None:
    names = [stage.name for stage in stages]
    if not stages:
        raise ValueError("stages: none given; name at least one")
    if len(set(names)) < len(names):
        raise ValueError(f"stages: {', '.join(names)} holds a name twice; each stage needs its own")
    if keep not in ("last", "best"):
        raise ValueError(f"keep: {keep!r} is not one of last, best")
    if keep == "best" and validation is None:
        raise ValueError("keep: 'best' is chosen on validation data, and there is none; give some or keep the last")
    if len(train.categories) < 2 and model.n_specialists > 1:
        raise ValueError(
            f"data: {', '.join(train.categories)} is the only category; the gate learns to tell categories apart, so "
            "give at least two"
        )
    for name, dataset in (("train", train), ("validation", validation)):
        if dataset is not None and len(dataset) == 0:
            raise ValueError(f"{name}: holds no example")
        if dataset is not None and dataset.n_specialists != model.n_specialists:
            raise ValueError(f"{name}: encoded for {dataset.n_specialists} specialists of {model.n_specialists}")
    if forced is not None and len(forced) != model.n_specialists:
        raise ValueError(f"forced_gate_weights: {len(forced)} weights for {model.n_specialists} specialists")
    for stage in stages:
        if stage.train != "specialists" and forced is not None:
            raise ValueError(
                f"stages.{stage.name}.train: {stage.train!r} would train a gate that forced_gate_weights replaces; "
                "train: specialists"
            )
        if stage.stored_states is not None and model.config.vocabularies:
            raise ValueError(
                f"stages.{stage.name}.stored_states: the specialists' tokenizers differ, and not every one takes part "
                "in every position; remove stored_states"
            )
        if stage.stored_states is not None and model.gate.holds:
            raise ValueError(
                f"stages.{stage.name}.stored_states: the gate {model.config.gate['type']!r} decides once for an "
                "answer, and stored states are read position by position; remove stored_states"
            )
        if stage.train == "gate" and model.n_specialists == 1:
            raise ValueError(f"stages.{stage.name}.train: a gate over one specialist has nothing to learn")
