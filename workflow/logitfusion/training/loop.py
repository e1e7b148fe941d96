"""What fine-tuning and healing share: one recipe, the Trainer's settings, progress, checkpoints that resume."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from logitfusion.errors import UserError
from logitfusion.files import find_disk_error, remove, write_json
from logitfusion.models.load import bf16_helps, choose_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to train. Every field has its value from the config; there are no defaults here.

    Attributes:
        steps: optimiser steps.
        batch_size: sequences per optimiser step.
        micro_batch: at most this many sequences per forward; gradients are accumulated up to ``batch_size``.
        learning_rate: peak rate of AdamW, after a linear warm-up over a tenth of the steps, then cosine to 0.
        weight_decay: AdamW's.
        max_tokens: longer sequences lose tokens from the left.
        checkpoint_minutes: a checkpoint is written about this often.
        precision: ``auto`` (bf16 products where the machine has them), ``fp32`` or ``bf16``. Weights stay fp32.
        seed: order of the data and any random initial values.
    """

    steps: int
    batch_size: int
    micro_batch: int
    learning_rate: float
    weight_decay: float
    max_tokens: int
    checkpoint_minutes: float
    precision: str
    seed: int

    @classmethod
    def from_config(cls, entry: dict[str, Any]) -> Recipe:
        """The recipe in a config entry, which may hold other keys too."""
        return cls(**{field.name: entry[field.name] for field in fields(cls)})


def trainer_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """transformers' settings for a recipe; nothing is reported to any service."""
    device = choose_device()
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and bf16_helps(device))
    micro = micro_batch(recipe)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch_size // (micro * processes()),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=max(1, recipe.steps // 10),
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        bf16=bf16,
        use_cpu=device.type == "cpu",
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=max(1, recipe.steps // 40),
        save_strategy="no",  # the Progress callback asks for checkpoints by the clock
        save_total_limit=1,
        train_sampling_strategy="sequential",  # order_rows has already mixed the rows
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        disable_tqdm=True,
        report_to="none",
    )


def processes() -> int:
    """How many processes train together (torchrun and accelerate say so)."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", 0)) == 0


def micro_batch(recipe: Recipe) -> int:
    """The largest divisor of a process's part of the batch that is at most the recipe's ``micro_batch``.

    Raises:
        UserError: the batch can't be parted equally.
    """
    part, left = divmod(recipe.batch_size, processes())
    if left:
        raise UserError(
            f"A batch_size of {recipe.batch_size} can't be parted among {processes()} processes; make it a multiple."
        )
    return max(size for size in range(1, recipe.micro_batch + 1) if part % size == 0)


class Progress(TrainerCallback):
    """A line every few seconds, a loss curve, and a checkpoint every few minutes."""

    def __init__(self, name: str, checkpoint_minutes: float, interval: float = 5.0) -> None:
        self.name, self.interval, self.period = name, interval, 60 * checkpoint_minutes
        self.started = self.printed = self.saved = time.monotonic()
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = self.printed = self.saved = time.monotonic()
        self.first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        if now - self.saved > self.period and state.global_step < state.max_steps:
            self.saved, control.should_save = now, True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        now = time.monotonic()
        if (
            not logs
            or "loss" not in logs
            or (now - self.printed < self.interval and state.global_step < state.max_steps)
        ):
            return
        self.printed = now
        done = state.global_step - self.first_step
        rate = done * args.per_device_train_batch_size * args.gradient_accumulation_steps / (now - self.started)
        left = (state.max_steps - state.global_step) * (now - self.started) / max(done, 1)
        logger.info(
            "%s: step %d of %d, loss %.4f, %.1f sequences/s, about %.0f s left",
            self.name, state.global_step, state.max_steps, float(logs["loss"]), rate, left,
        )  # fmt: skip


def train(trainer: Trainer, name: str, recipe: Recipe, checkpoints: Path, fingerprint: str) -> list[dict[str, float]]:
    """Train to the recipe's last step, from the newest checkpoint of the same fingerprint if there is one.

    Returns:
        The loss curve: ``step, loss, learning_rate`` a row, and whatever parts of the loss the trainer logs.

    Raises:
        UserError: the disk is full or can't be written.
    """
    set_seed(recipe.seed)
    with trainer.args.main_process_first(local=False):
        resume = find_checkpoint(checkpoints, fingerprint)
        if is_main_process():
            write_json(checkpoints / "fingerprint.json", {"fingerprint": fingerprint})
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(name, recipe.checkpoint_minutes))
    if resume is not None:
        logger.info("%s: resuming from %s", name, resume.name)
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except Exception as error:
        full = find_disk_error(error)
        if full is None:
            raise
        raise UserError(
            f"A checkpoint could not be written to {checkpoints}: {full}; a training goes on from the last whole one."
        ) from error
    logger.info("%s: trained in %.1f s", name, time.monotonic() - started)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [{key: value for key, value in row.items() if key not in ("epoch", "grad_norm")} for row in rows]


def find_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint, if the folder belongs to this very training; else the folder is emptied."""
    try:
        known = json.loads((folder / "fingerprint.json").read_text())["fingerprint"]
    except (OSError, ValueError, KeyError):
        known = None
    if known != fingerprint:
        remove(folder)
        folder.mkdir(parents=True)
        return None
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    for checkpoint in sorted(numbered, key=lambda path: -int(path.name.split("-")[1])):
        if _is_whole(checkpoint):
            return checkpoint
        remove(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was completed (the Trainer writes its state last) and has all of its files' bytes.

    A power cut can take the end of files that were written before the state.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass  # compares the file's length with what its head says
        return all(is_zipfile(path) for path in checkpoint.glob("*.pt*"))
    except (OSError, ValueError, SafetensorError):
        return False


def order_rows(rows: list[dict[str, Any]], recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of the whole training in the order they are used.

    Each micro-batch holds rows of similar length, because padding would be half of the work; the micro-batches of an
    optimiser step are drawn from all lengths, so that a step sees every task.
    """
    if not rows:
        raise UserError("There is no text to train on: the tasks' training splits are empty.")
    micro = micro_batch(recipe)
    needed = recipe.steps * (recipe.batch_size // micro)
    rng = random.Random(recipe.seed)
    batches: list[list[dict[str, Any]]] = []
    while len(batches) < needed:
        epoch = rng.sample(rows, len(rows))
        # A last, shorter batch is filled up from the start of the epoch.
        epoch += (epoch * micro)[: -len(epoch) % micro]
        epoch.sort(key=lambda row: len(row["input_ids"]))
        cut = [epoch[start : start + micro] for start in range(0, len(epoch), micro)]
        rng.shuffle(cut)
        batches += cut
    return [row for batch in batches[:needed] for row in batch]
