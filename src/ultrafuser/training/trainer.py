"""One stage on top of transformers.Trainer: what is drawn, how the loss is scaled, what is saved, when to stop.

B batch, R response positions, N specialists.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments

from ultrafuser.data import FlatBatchSampler, ResponseCollator, ResponseDataset
from ultrafuser.data.collator import IGNORE
from ultrafuser.recipe import StageConfig
from ultrafuser.training.evaluation import evaluate_response_loss, evaluate_stored
from ultrafuser.training.health import GateHealth
from ultrafuser.training.parameters import load_weights, save_weights, trainable_state
from ultrafuser.training.stored import StageStates, StoredCollator, StoredStates
from ultrafuser.training.stored_fusion import fused_from_states
from ultrafuser.training.work import (
    BEST,
    BEST_FILE,
    KEEP,
    TRAINER_STATE_NAME,
    checkpoints,
    clear_when_full,
    publish_folder,
    staging_folder,
    write_json,
)

__all__ = ["FuserTrainer", "TrainingDiverged"]


class TrainingDiverged(ValueError):  # noqa: N818 - says what happened
    """The loss or its gradient is no longer a finite number."""


class GateAlone(nn.Module):
    """What the Trainer sees where a gate learns from stored states: it walks over all of its model at every step."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate


class FuserTrainer(Trainer):
    """transformers.Trainer for one stage of a fused model; the loop, optimiser, schedule and devices are the Trainer's.

    Loss: the sum of token losses of the whole optimiser batch over its response tokens ("token_mean") or over its
    examples ("example_sum", Ding et al., ACL 2025, algorithm 1), accumulation and processes included.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        stage: StageConfig,
        sampler: FlatBatchSampler,
        train: ResponseDataset,
        validation: ResponseDataset | None,
        collator: ResponseCollator,
        callbacks: Sequence[TrainerCallback],
        forced_gate_weights: Sequence[float] | None = None,
        eval_batch_size: int = 16,
        stored: StageStates | None = None,
    ) -> None:
        super().__init__(
            model=model if stored is None else GateAlone(model.gate),
            args=args,
            data_collator=collator if stored is None else StoredCollator(stored.train),
            train_dataset=train if stored is None else stored.train,
            eval_dataset=validation,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        self.fused = model
        self.loss_bound = 0.0  # largest bound, in this process, on the error of a stored loss
        self.stage = stage
        self.sampler = sampler
        self.forced_gate_weights = forced_gate_weights
        self.eval_batch_size = eval_batch_size
        self.stored = stored
        self.health = GateHealth(train.categories, model.config.specialist_names)
        self.frozen = [body for body in model.bodies if not any(p.requires_grad for p in body.parameters())]
        self.model_accepts_loss_kwargs = True  # num_items_in_batch is counted, and
        self.loss_is_scaled_for_ga = True  # compute_loss has divided by it

    # ---- what is drawn ----

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.sampler

    # ---- the loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """What the loss of the whole optimiser batch is divided by: its response tokens, or its examples."""
        if self.stage.loss == "token_mean":
            count = sum((batch["labels"] != IGNORE).sum() for batch in batch_samples)
        else:
            count = sum(len(batch["labels"]) for batch in batch_samples)
        count = torch.as_tensor(count, dtype=torch.float32, device=device)
        return self.accelerator.reduce(count, "sum") if self.args.world_size > 1 else count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """This micro-batch's share of the loss; counts gate weights and losses by domain on the way."""
        for body in self.frozen:  # the Trainer has just put the whole model in training mode
            if body.training:
                body.eval()
        category_B = inputs["category"]
        batch = {name: tensor for name, tensor in inputs.items() if name != "category"}
        outputs: Any
        if self.stored is not None:
            outputs = fused_from_states(self.fused, batch["hidden"], batch["labels"], batch["known"])
            self.loss_bound, total = max(self.loss_bound, outputs.bound), outputs.total
        else:
            outputs = model(**batch, gate_weights=self.forced_gate_weights)
            total = outputs.token_loss.sum()
        self.health.add(category_B, batch["labels"], outputs.token_loss, outputs.gate_weights)
        assert num_items_in_batch is not None
        # Gradients are averaged over processes, the divisor is the sum over them.
        loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """The Trainer's; remembers the loss so that a lost one is seen before the weights are touched."""
        if self.stored is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:  # one process, full precision, no optimiser of its own ways: what is left of the Trainer's step
            model.train()
            loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
            loss.backward()
            loss = loss.detach()
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        return loss

    _step_loss: torch.Tensor | None = None

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The Trainer's; raises TrainingDiverged, before the optimiser steps, when loss or gradient is not finite."""
        norm = super()._get_grad_norm(model, grad_norm)
        loss, self._step_loss = self._step_loss, None
        scaled = self.args.fp16  # the gradient scaler skips steps whose gradient overflows: that is its trade
        assert loss is not None
        checked = loss if scaled else torch.stack([loss, torch.as_tensor(norm).to(loss)])
        if not torch.isfinite(checked).all():
            what = "gradient" if torch.isfinite(loss) else "loss"
            value = float(norm) if what == "gradient" else loss.item()
            raise TrainingDiverged(
                f"stage {self.stage.name!r}: the {what} is {value} at step {self.state.global_step + 1}, so training "
                f"stopped; the weights of the last checkpoint are whole. Lower stages.{self.stage.name}.learning_rate "
                f"(now {self.stage.learning_rate:g}) or lengthen its warmup_steps, and look at the data of this step"
            )
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it would walk over all parameters at every step."""
        return 0

    # ---- what is told ----

    control: TrainerControl

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand a log entry to the callbacks, with the gate's health when it is one of training."""
        entry: dict[str, Any] = dict(logs)
        if "loss" in entry:
            reduce = (lambda sums: self.accelerator.reduce(sums, "sum")) if self.args.world_size > 1 else None
            entry.update(self.health.take(reduce))
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, entry)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict:
        """Validation loss by domain; `eval_loss` is the mean of the domains'."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        started = time.perf_counter()
        states = self.stored.validation if self.stored is not None else None
        model = self.model if self.stored is None else self.fused
        metrics = validation_metrics(model, dataset, self.forced_gate_weights, self.eval_batch_size, states)
        self.log({**metrics, "eval_seconds": time.perf_counter() - started})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- what is kept ----

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better:

            def write(folder: Path) -> None:
                self.save_model(str(folder), _internal_call=True)
                if self.args.should_save:
                    write_json(folder / BEST_FILE, {"step": self.state.global_step, **metrics})

            self._publish(BEST, write)
        return better

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the Trainer does, but a checkpoint appears whole or not at all, and the two newest are kept."""

        def write(folder: Path) -> None:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            if self.args.should_save:
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

        self._publish(f"checkpoint-{self.state.global_step}", write)
        if self.args.should_save:
            for old in checkpoints(Path(self.args.output_dir))[:-KEEP]:
                shutil.rmtree(old, ignore_errors=True)

    def _publish(self, name: str, write: Any) -> None:
        """Let all processes write into a hidden folder, then give it its name."""
        folder = staging_folder(Path(self.args.output_dir), name)
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        self.accelerator.wait_for_everyone()
        with clear_when_full(folder):
            write(folder)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish_folder(folder, Path(self.args.output_dir) / name)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """What learns in this stage, and nothing else."""
        state = trainable_state(self.accelerator.unwrap_model(self.model))
        if state_dict is not None:  # gathered from shards
            state = {name: state_dict[name] for name in state}
        if self.args.should_save:
            save_weights(state, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, Path(resume_from_checkpoint))


def validation_metrics(
    model: Any,
    dataset: ResponseDataset,
    gate_weights: Sequence[float] | None,
    batch_size: int,
    states: StoredStates | None = None,
) -> dict[str, Any]:
    """`eval_loss` (mean of the domains), `eval_loss_DOMAIN` (nats per token) and `eval_gate_weights` by domain.

    With the data set's stored `states` the specialists do not run.
    """
    if states is not None:
        found = evaluate_stored(model, states, batch_size=batch_size)
    else:
        found = evaluate_response_loss(model, dataset, gate_weights=gate_weights, batch_size=batch_size)
    metrics: dict[str, Any] = {"eval_loss": found.mean()}
    metrics |= {f"eval_loss_{name}": loss for name, loss in found.by_category().items()}
    metrics["eval_gate_weights"] = found.mean_weights()
    return metrics
