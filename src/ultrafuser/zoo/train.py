"""The training loop of the zoo: transformers.Trainer with best-checkpoint choice, resume after a kill, progress lines.

Shapes: B examples, T tokens. Losses are nats per predicted token.
"""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from ultrafuser.zoo.settings import Shape, TrainSettings

IGNORED = -100


class RowDataset(Dataset[dict[str, Any]]):
    """Rows of equal length from a memory-mapped array; every token is a target."""

    def __init__(self, file: Path) -> None:
        self.rows = np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.rows[index].astype(np.int64)
        return {"input_ids": ids, "labels": ids}


class ExampleDataset(Dataset[dict[str, Any]]):
    """Prompt and response pairs; only response tokens are targets."""

    def __init__(self, file: Path) -> None:
        arrays = np.load(file)
        self.ids, self.starts, self.responses = arrays["ids"], arrays["starts"], arrays["responses"]
        self.lengths = np.diff(self.starts).tolist()

    def __len__(self) -> int:
        return len(self.responses)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.ids[self.starts[index] : self.starts[index + 1]].astype(np.int64)
        labels = ids.copy()
        labels[: len(ids) - self.responses[index]] = IGNORED
        return {"input_ids": ids, "labels": labels}


def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Right-padded batch (B, T); padding is never a target, and causal attention keeps it from mattering."""
    width = max(len(feature["input_ids"]) for feature in features)
    ids_BT = torch.zeros(len(features), width, dtype=torch.long)
    labels_BT = torch.full((len(features), width), IGNORED, dtype=torch.long)
    for row, feature in enumerate(features):
        ids_BT[row, : len(feature["input_ids"])] = torch.from_numpy(feature["input_ids"])
        labels_BT[row, : len(feature["labels"])] = torch.from_numpy(feature["labels"])
    return {"input_ids": ids_BT, "labels": labels_BT}


class Progress(TrainerCallback):
    """Prints step, tokens seen, loss and time left; keeps the checks of the validation loss."""

    def __init__(self, name: str, tokens_per_step: float, say: Callable[[str], None]) -> None:
        self.name, self.tokens_per_step, self.say = name, tokens_per_step, say
        self.started, self.first_step, self.last_loss = 0.0, 0, math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if "eval_loss" in logs:
            self.say(f"{self.name}: step {state.global_step}, validation loss {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            done = max(state.global_step - self.first_step, 1)
            seconds = (time.monotonic() - self.started) / done
            left = (state.max_steps - state.global_step) * seconds
            tokens = state.global_step * self.tokens_per_step
            self.say(
                f"{self.name}: step {state.global_step}/{state.max_steps}, {tokens / 1e6:.2f}M tokens, "
                f"loss {logs['loss']:.4f}, {self.tokens_per_step / seconds:.0f} tokens/s, {left / 60:.1f} min left"
            )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; torn ones (the state file is written last) are deleted."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(checkpoints):
        if (checkpoint / "trainer_state.json").is_file():
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively; mixed precision then trains almost twice as fast."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def arguments(folder: Path, settings: TrainSettings, by_length: bool) -> TrainingArguments:
    """Trainer arguments of a run whose checkpoints lie in `folder`."""
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        prediction_loss_only=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=settings.check_every,
        save_steps=settings.check_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=50,
        logging_nan_inf_filter=False,
        train_sampling_strategy="group_by_length" if by_length else "random",
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=fast_bfloat16(),
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


class ZooTrainer(Trainer):
    """Trainer that knows the lengths of an ExampleDataset unread, and runs the head on the target positions only."""

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood of the target tokens, as the model's own loss: prompts need no logits."""
        targets_BT = inputs["labels"][:, 1:]
        chosen_BT = targets_BT != IGNORED
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
            hidden_BTD = model.model(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
            logits_RV = model.lm_head(hidden_BTD[:, :-1][chosen_BT])
        loss = torch.nn.functional.cross_entropy(logits_RV.float(), targets_BT[chosen_BT])
        return (loss, {"loss": loss}) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if isinstance(dataset, ExampleDataset):
            from transformers.trainer_pt_utils import LengthGroupedSampler

            return LengthGroupedSampler(self.args.train_batch_size, lengths=dataset.lengths)
        return super()._get_train_sampler(train_dataset)


def train(
    name: str,
    model: LlamaForCausalLM,
    data: Path,
    checkpoints: Path,
    settings: TrainSettings,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `model` on the arrays in `data`, going on from the newest checkpoint; it ends with the best weights.

    Returns steps, tokens seen (padding excluded), best validation loss and the validation curve.
    """
    by_length = (data / "train.npz").is_file()
    kind, ending = (ExampleDataset, "npz") if by_length else (RowDataset, "npy")
    training, validation = kind(data / f"train.{ending}"), kind(data / f"validation.{ending}")
    tokens = int(training.starts[-1]) if isinstance(training, ExampleDataset) else int(training.rows.size)
    set_seed(settings.seed)
    logging.disable_progress_bar()
    trainer = ZooTrainer(
        model=model,
        args=arguments(checkpoints, settings, by_length),
        data_collator=collate,
        train_dataset=training,
        eval_dataset=validation,
        callbacks=[
            EarlyStoppingCallback(settings.patience),
            Progress(name, tokens / len(training) * settings.batch, say),
        ],
    )
    trainer.pop_callback(PrinterCallback)
    started = time.monotonic()
    resume = newest_checkpoint(checkpoints)
    if resume is not None:
        say(f"{name}: going on from {resume.name}")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    curve = [(entry["step"], entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "tokens_seen": round(trainer.state.epoch * tokens),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "best_step": trainer.state.best_global_step,
        "best_validation_loss": trainer.state.best_metric,
        "validation_curve": curve,
    }


def new_model(shape: Shape, seed: int) -> LlamaForCausalLM:
    """A fresh Llama of the given shape, in float32."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


def open_model(folder: Path) -> LlamaForCausalLM:
    """A saved zoo model in float32."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model
