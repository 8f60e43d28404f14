"""A stage's settings in the words of transformers.TrainingArguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ultrafuser.recipe import StageConfig

__all__ = ["check_stage", "half_precision_specialists", "micro_batches", "training_arguments", "world_size"]

MOST_PARTS, FEWEST = 4, 3  # parts of a batch on a CPU, examples in each
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def world_size() -> int:
    """Number of processes, as torchrun and accelerate launch announce it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def half_precision_specialists(model: Any) -> dict[int, torch.dtype]:
    """The specialists that may learn and are stored in 16 bits, by index."""
    dtypes = {place: next(model.specialists[place].parameters()).dtype for place in model.learners}
    return {place: dtype for place, dtype in dtypes.items() if dtype in (torch.bfloat16, torch.float16)}


def check_stage(stage: StageConfig, n_categories: int, formats: set[torch.dtype], on_cpu: bool) -> None:
    """Raises ValueError when the optimiser batch cannot be cut into equal parts, float16 cannot be trained here, or
    several processes are to learn from stored states."""
    chunks = stage.accumulation * world_size()
    examples = stage.examples_per_category * n_categories
    if examples % chunks:
        raise ValueError(
            f"stages.{stage.name}: {examples} examples per batch cannot be cut into equal parts by accumulation "
            f"{stage.accumulation} x {world_size()} processes; change examples_per_category or accumulation"
        )
    if stage.stored_states is not None and world_size() > 1:
        raise ValueError(
            f"stages.{stage.name}.stored_states: learns in one process, {world_size()} were started; start one, or "
            "remove stored_states"
        )
    if stage.train != "gate" and torch.float16 in formats and (on_cpu or torch.bfloat16 in formats):
        raise ValueError("dtype: float16 learns on a GPU only, and not beside bfloat16; use bfloat16 or float32")


def micro_batches(stage: StageConfig, examples: int, on_cpu: bool) -> int:
    """Micro-batches per process that an optimiser batch of so many examples is read in.

    That is the stage's accumulation, except on one CPU process left to itself (accumulation 1): there up to four parts,
    each of like lengths, save a third of the time in padding. The sum of their gradients is the same. Stored states
    have no padding.
    """
    if stage.accumulation > 1 or stage.stored_states is not None or not on_cpu or world_size() > 1:
        return stage.accumulation
    return max(
        parts
        for parts in range(1, MOST_PARTS + 1)
        if examples % parts == 0 and (parts == 1 or examples // parts >= FEWEST)
    )


def training_arguments(
    stage: StageConfig,
    folder: Path,
    model: Any,
    *,
    formats: set[torch.dtype],
    examples: int,
    parts: int,
    seed: int,
    validate: bool,
) -> TrainingArguments:
    """Arguments of one stage; sets up the processes when started by torchrun or accelerate.

    `examples` is the size of an optimiser batch, `parts` what `micro_batches` says of it; `formats` are the 16-bit
    formats that specialists are stored in: these learn in mixed precision.
    """
    on_cpu = model.device.type == "cpu"
    half = formats if stage.train != "gate" else set()
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=examples // (parts * world_size()),
        gradient_accumulation_steps=parts,
        max_steps=stage.steps,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=SCHEDULES[stage.schedule],
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=torch.bfloat16 in half,
        fp16=torch.float16 in half,
        seed=seed,
        use_cpu=on_cpu,
        use_cache=model.config.use_cache,
        logging_steps=stage.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validate else "no",
        eval_steps=(stage.eval_every or stage.steps) if validate else None,
        save_strategy="steps",
        save_steps=stage.save_every or stage.steps,
        metric_for_best_model="loss" if validate else None,
        greater_is_better=False if validate else None,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
    )
    args._n_gpu = min(args.n_gpu, 1)  # several GPUs are used by torchrun or accelerate, not by nn.DataParallel
    return args
