"""One stage of a run: its sampler, arguments, Trainer and callbacks, and the record of what it gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments

from ultrafuser.data import FlatBatchSampler, ResponseCollator, ResponseDataset, make_sampler
from ultrafuser.recipe import StageConfig
from ultrafuser.training.arguments import (
    check_stage,
    half_precision_specialists,
    micro_batches,
    training_arguments,
    world_size,
)
from ultrafuser.training.callbacks import Flow, Recorder, StopRequest, TrainingInterrupted
from ultrafuser.training.history import History, TensorBoard
from ultrafuser.training.parameters import select_trainable
from ultrafuser.training.predictions import KINDS, choose_kind, expected_bytes, room, store_predictions
from ultrafuser.training.results import StageResult, losses_by_domain
from ultrafuser.training.stored import StageStates, StoredStates, bytes_needed, store_states
from ultrafuser.training.trainer import FuserTrainer, validation_metrics
from ultrafuser.training.work import BEST, HISTORY_FILE, StageFolder

__all__ = ["Run"]

SECONDS_BETWEEN = 30  # lines that say how far the storing of hidden states is


@dataclass
class Run:
    """Everything that the stages of one run share. Construction checks every stage before anything is trained."""

    model: Any
    pad_token_id: int | None
    stages: list[StageConfig]
    train: ResponseDataset
    validation: ResponseDataset | None
    work: Path
    seed: int
    callbacks: list[TrainerCallback]
    forced: Sequence[float] | None
    keep: Literal["last", "best"]
    eval_batch_size: int
    tensorboard: bool
    states: Path
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.stop = StopRequest()
        self.half = half_precision_specialists(self.model)
        self.on_cpu = self.model.device.type == "cpu"
        self.collator = ResponseCollator(self.pad_token_id, multiple=1 if self.on_cpu else 8)
        for stage in self.stages:
            check_stage(stage, len(self.train.categories), set(self.half.values()), self.on_cpu)
        self.samplers = [self._sampler(place) for place in range(len(self.stages))]
        self._arguments(0)  # starts the processes that PartialState speaks of
        self.is_main = PartialState().is_main_process

    def folder(self, place: int) -> StageFolder:
        """The folder of a stage."""
        return StageFolder(self.work, place, self.stages[place])

    def history(self) -> History:
        """What is recorded so far; only the main process writes."""
        return History(self.work / HISTORY_FILE if self.is_main else None)

    def train_stage(self, place: int, history: History, before: dict[str, float] | None) -> dict[str, Any]:
        """Train one stage, from its last checkpoint where there is one, and mark it as done; returns its record.

        `before` holds the validation losses that the last stage ended with; measured here for the first one.
        """
        stage, folder, started = self.stages[place], self.folder(place), time.perf_counter()
        checkpoint = folder.last_checkpoint()
        history.forget([s.name for s in self.stages], stage.name, folder.step() if checkpoint else -1)
        first_step = sum(earlier.steps for earlier in self.stages[:place])
        with self._board(first_step + folder.step() + 1) as board:
            recorder = Recorder(stage.name, history, board, first_step, watch=self.forced is None)
            stored = self._stored(stage)
            if before is None and self.validation is not None:
                before = self._measured_before(stage, history, recorder, stored)
            trainer = self._trainer(place, recorder, stored)
            with _checkpointing(self.model, stage.gradient_checkpointing):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            if not self.on_cpu:
                trainer.accelerator.free_memory()
        if self.stop.signum is not None:
            raise TrainingInterrupted(stage.name, trainer.state.global_step, self.stop.signum)
        result = self._result(stage, folder, history, before, list(recorder.warnings.values()))
        if stored is not None:
            result.stored = stored.describe(trainer.loss_bound)
        result.seconds = round(time.perf_counter() - started, 3)
        weights = BEST if self.keep == "best" else f"checkpoint-{stage.steps}"
        if self.is_main:
            folder.finish(asdict(result), weights)
        PartialState().wait_for_everyone()
        return {**asdict(result), "weights": weights}

    def _stored(self, stage: StageConfig) -> StageStates | None:
        """The states that the stage learns from, computed where they are not there yet; None where it wants none."""
        form = stage.stored_states
        if form is None:
            return None
        sets = [dataset for dataset in (self.train, self.validation) if dataset is not None]
        needed = sum(bytes_needed(self.model, dataset, form) for dataset in sets)
        tokens = sum(sum(dataset.response_tokens().values()) for dataset in sets)
        self.say(f"hidden states of {tokens:,} response tokens: {needed / 1e9:,.3f} GB in {self.states}")
        found = [store_states(self.model, d, self.states, form=form, progress=self._told) for d in sets]
        self._store_predictions(found)
        return StageStates(found[0], found[1] if len(found) > 1 else None)

    def _store_predictions(self, sets: Sequence[StoredStates]) -> None:
        """Beside the states, what the loss needs of the specialists' predictions, where it fits."""
        if self.model.gate.reads_evidence:
            for states in sets:
                states.evidence = store_predictions(self.model, states, "evidence", progress=self._told_rows)
        kind = choose_kind(self.model, sum(states.rows for states in sets), self.states)
        needed = sum(expected_bytes(self.model, states, kind) for states in sets) if kind is not None else 0
        if kind is None or needed > room(self.states):
            why = "with this rule" if kind is None else f"{needed / 1e9:,.3f} GB would be too much for the rest"
            self.say(f"predictions are not stored ({why}): the heads run at every step")
            return
        self.say(f"{KINDS[kind].what}: about {needed / 1e9:,.3f} GB in {self.states}")
        for states in sets:
            states.predictions = store_predictions(self.model, states, kind, progress=self._told_rows)

    def _told_rows(self, done: int, total: int) -> None:
        self._tell(done, total, "predictions for {:,} of {:,} response tokens stored")

    def _told(self, done: int, total: int) -> None:
        self._tell(done, total, "hidden states of {:,} of {:,} conversations stored")

    def _tell(self, done: int, total: int, line: str) -> None:
        if done == total or time.perf_counter() - self._told_at > SECONDS_BETWEEN:
            self._told_at = time.perf_counter()
            self.say(line.format(done, total))

    _told_at = 0.0

    def _trainer(self, place: int, recorder: Recorder, stored: StageStates | None) -> FuserTrainer:
        select_trainable(self.model, self.stages[place].train)
        return FuserTrainer(
            self.model,
            self._arguments(place),
            stage=self.stages[place],
            sampler=self.samplers[place],
            train=self.train,
            validation=self.validation,
            collator=self.collator,
            callbacks=[Flow(self.stop), recorder, *self.callbacks],
            forced_gate_weights=self.forced,
            eval_batch_size=self.eval_batch_size,
            stored=stored,
        )

    def _measured_before(
        self, stage: StageConfig, history: History, recorder: Recorder, stored: StageStates | None
    ) -> dict[str, float]:
        known = [entry for entry in history.of(stage.name) if entry["step"] == 0 and "eval_loss" in entry]
        if known:
            return losses_by_domain(known[0])
        assert self.validation is not None
        states = stored.validation if stored is not None else None
        metrics = validation_metrics(self.model, self.validation, self.forced, self.eval_batch_size, states)
        if self.is_main:
            recorder.record(0, metrics)
        return losses_by_domain(metrics)

    def _result(
        self,
        stage: StageConfig,
        folder: StageFolder,
        history: History,
        before: dict[str, float] | None,
        warnings: list[str],
    ) -> StageResult:
        entries = history.of(stage.name)
        evaluations = [entry for entry in entries if "eval_loss" in entry]
        best = folder.best()
        final = best if self.keep == "best" else (evaluations[-1] if evaluations else None)
        logged = [entry["gate_weights"] for entry in entries if "gate_weights" in entry]
        return StageResult(
            name=stage.name,
            train=stage.train,
            steps=stage.steps,
            seconds=0.0,
            before=before,
            after=losses_by_domain(final) if final else None,
            best=best,
            gate_weights=final["eval_gate_weights"] if final else (logged[-1] if logged else None),
            warnings=warnings,
        )

    def _arguments(self, place: int) -> TrainingArguments:
        return training_arguments(
            self.stages[place],
            self.folder(place).path,
            self.model,
            formats=set(self.half.values()),
            examples=self.samplers[place].batch_size,
            parts=self.samplers[place].chunks // world_size(),
            seed=self.seed + place,
            validate=self.validation is not None,
        )

    def _sampler(self, place: int) -> FlatBatchSampler:
        stage = self.stages[place]
        examples = stage.examples_per_category * len(self.train.categories)
        chunks = micro_batches(stage, examples, self.on_cpu) * world_size()
        return make_sampler(
            stage.sampler,
            self.train.category_index,
            stage.examples_per_category,
            steps=stage.steps,
            seed=1000 * self.seed + place,
            chunks=chunks,
            lengths=self.train.lengths if chunks > 1 else None,
            names=self.train.categories,
        )

    @contextmanager
    def _board(self, step: int) -> Iterator[TensorBoard | None]:
        board = TensorBoard(self.work / "tensorboard", step) if self.tensorboard and self.is_main else None
        try:
            yield board
        finally:
            if board is not None:
                board.close()


@contextmanager
def _checkpointing(model: Any, wanted: bool) -> Iterator[None]:
    """Activations recomputed in the backward pass, for this stage only."""
    if not wanted:
        yield
        return
    modern = hasattr(model, "activation_checkpointing_enable")  # the name since Transformers 5.23
    settings = {"use_reentrant": False}
    if modern:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    try:
        yield
    finally:
        model.activation_checkpointing_disable() if modern else model.gradient_checkpointing_disable()
