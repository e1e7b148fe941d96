"""What fine-tuning, healing and distillation share: the Trainer's settings, progress, and a training that resumes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import unwrap_peft_model

from logitfusion.config.training import Recipe
from logitfusion.errors import UserError
from logitfusion.files import find_disk_error
from logitfusion.models.architecture import reset_rope, rope_limit
from logitfusion.models.load import bf16_helps, choose_device
from logitfusion.progress.pace import describe_pace
from logitfusion.training.batches import is_main_process, micro_batch, processes
from logitfusion.training.checkpoints import Mark, find_checkpoint, forget_unbegun, mark_checkpoints, record_checkpoint
from logitfusion.training.kept import kept_logits
from logitfusion.training.schedule import WarmedTrainer
from logitfusion.training.sharding import (
    gather,
    local,
    mixed_precision,
    one_failure,
    outline,
    part_on_cpus_too,
    sharding_arguments,
)

logger = logging.getLogger(__name__)

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def trainer_arguments(
    recipe: Recipe, folder: Path, kind: type[Arguments] = TrainingArguments, **others: Any
) -> Arguments:
    """transformers' settings for a recipe, with ``others`` in their place; nothing is reported to any service."""
    device = choose_device()
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and bf16_helps(device))
    micro = micro_batch(recipe, processes())
    settings = {
        "output_dir": str(folder),
        "max_steps": recipe.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": recipe.batch_size // (micro * processes()),
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "lr_scheduler_type": "cosine",
        "warmup_steps": recipe.steps // 10,
        "optim": "adamw_torch_fused",
        "bf16": bf16,
        "use_cpu": device.type == "cpu",
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "logging_steps": max(1, recipe.steps // 40),
        "logging_nan_inf_filter": False,  # it would hide that a training diverged
        "save_strategy": "no",  # the Progress callback asks for checkpoints by the clock
        "save_total_limit": 1,
        "train_sampling_strategy": "sequential",  # order_rows has already mixed the rows
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.type == "cuda",
        "disable_tqdm": True,
        "report_to": "none",
        **(sharding_arguments() if recipe.sharded else {}),
    }
    arguments = kind(**settings | others)
    if recipe.sharded:
        part_on_cpus_too()
        arguments.fsdp_plugin_args["mixed_precision_policy"] = mixed_precision(bf16)
    # Where one process sees several GPUs, the Trainer would use all of them, and multiply the batch by their number.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class StepTrainer(WarmedTrainer):
    """A Trainer of losses that are divided by the numbers of the whole optimiser step.

    So accumulation and several processes give what one large batch gives.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Else it counts no tokens of a step for models that don't divide by them themselves (Gemma 3n, Gemma 4).
        self.model_accepts_loss_kwargs = True
        self._base = unwrap_peft_model(self.model)
        self._forgets = rope_limit(self._base) < math.inf

    def kept_logits(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """``[*kept, V]``: see the function."""
        if self._forgets:
            reset_rope(self._base)
        return kept_logits(model, self._base, inputs)


_ADVICE = "lower the learning_rate (nothing was written, and the last checkpoint is a good one)."


def check_weights(model: nn.Module, name: str) -> None:
    """Refuse a model with a weight that is NaN or infinite; all processes of a training call this at once.

    Raises:
        UserError: it has one; ``name`` is the training's.
    """
    finite = torch.stack([local(value.detach()).isfinite().all() for value in model.parameters()]).int()
    if distributed.is_initialized():
        distributed.all_reduce(finite, distributed.ReduceOp.MIN)
    _refuse_infinite(finite, name)


def _refuse_infinite(finite: Tensor, name: str) -> None:
    broken = len(finite) - int(finite.sum())  # one transfer from the GPU
    if broken:
        raise UserError(f"{name}: the training diverged, {broken} of {len(finite)} tensors are not finite; {_ADVICE}")


def as_first_says(value: Any) -> Any:
    """What the first process has found, for all of them: clocks and disks may tell each of them another thing."""
    if processes() == 1:
        return value
    found = [value]
    distributed.broadcast_object_list(found, src=0)
    return found[0]


class Progress(TrainerCallback):
    """A line every few seconds, a checkpoint every few minutes, and an end where the training diverged."""

    def __init__(self, name: str, recipe: Recipe, interval: float = 5.0) -> None:
        self.name, self.interval, self.period = name, interval, 60 * recipe.checkpoint_minutes
        self.texts = recipe.batch_size
        self.started = self.printed = self.saved = time.monotonic()
        self.first_step = 0
        self.loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = self.printed = self.saved = time.monotonic()
        self.first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        now = time.monotonic()
        if state.global_step < state.max_steps and as_first_says(now - self.saved > self.period):
            check_weights(model, self.name)  # a checkpoint that is not finite would replace a good one
            self.saved, control.should_save = now, True
        if now - self.printed > self.interval or state.global_step == state.max_steps:
            self.printed = now
            seconds = now - self.started
            pace = describe_pace(state.global_step, state.max_steps, "steps", seconds, self.first_step)
            sequences = (state.global_step - self.first_step) * self.texts
            logger.info("%s: %s; %.1f sequences/s%s", self.name, pace, sequences / seconds, self.loss)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(f"{self.name}: the loss is {logs['loss']} at step {state.global_step}; {_ADVICE}")
        self.loss = f", loss {float(logs['loss']):.4f} at step {state.global_step}"


class Records(TrainerCallback):
    """Notes the digests of each checkpoint that is written."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if is_main_process():
            record_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class Draws(TrainerCallback):
    """Notes beside the checkpoints whether a step draws random numbers, which decides who may go on with them."""

    def __init__(self, folder: Path, mark: Mark) -> None:
        self.folder, self.mark = folder, mark
        self.before: list[Tensor] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.mark.random:
            self.before = _random_states()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.before is not None and not all(map(torch.equal, self.before, _random_states())):
            self.mark = replace(self.mark, random=True)
            if is_main_process():
                mark_checkpoints(self.folder, self.mark)
        self.before = None


def _random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def train(
    trainer: Trainer, name: str, recipe: Recipe, checkpoints: Path, fingerprint: str
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train to the recipe's last step, from the newest checkpoint of the same fingerprint if there is one.

    Returns:
        The model, adapters beside its weights (see ``merge_adapters``), and its loss curve: ``step, loss,
        learning_rate`` a row, and whatever parts of the loss the trainer logs. A parted model is whole again in the
        first process, on the CPU, and an outline without values in the others.

    Raises:
        UserError: the disk is full or can't be written, or the loss or a weight is not finite, or a checkpoint is of a
            training in another number of processes that would not go on as it began.
    """
    set_seed(recipe.seed)
    mark = Mark(fingerprint, processes(), recipe.sharded)
    resume = find_checkpoint(checkpoints, mark) if is_main_process() else None
    if is_main_process():
        mark_checkpoints(checkpoints, mark)
    resume = as_first_says(resume)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Draws(checkpoints, mark))
    trainer.add_callback(Records())
    trainer.add_callback(Progress(name, recipe))
    if resume is not None:
        logger.info("%s: resuming from %s", name, resume.name)
    plain = outline(trainer.model, "meta") if recipe.sharded else None
    started = time.monotonic()
    try:
        with one_failure(), plain_attention(trainer.args):
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except Exception as error:
        full = find_disk_error(error)
        if full is None:
            raise
        raise UserError(
            f"A checkpoint could not be written to {checkpoints}: {full}; a training goes on from the last whole one."
        ) from error
    finally:
        if is_main_process():
            forget_unbegun(checkpoints)
    logger.info("%s: trained in %.1f s", name, time.monotonic() - started)
    check_weights(trainer.model, name)
    model = trainer.model if plain is None else gather(trainer.model, plain, is_main_process())
    rows = [row for row in trainer.state.log_history if "loss" in row]
    curve = [{key: value for key, value in row.items() if key not in ("epoch", "grad_norm")} for row in rows]
    return model.eval(), curve


@contextmanager
def plain_attention(arguments: TrainingArguments) -> Iterator[None]:
    """PyTorch's attention without its fused kernels, for trainings in fp32 on a GPU.

    With torch 2.11 on an H200 some batches made the loss NaN in fp32, and did not with this kernel; the likely cause is
    padding in front of a text, which sees nothing.
    """
    if arguments.device.type != "cuda" or arguments.bf16:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def merge_adapters(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """A trained model with its adapters, if it has any, added into its weights.

    Raises:
        UserError: a sum is not finite; ``name`` is the training's.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    merged = model.merge_and_unload().eval()
    _refuse_infinite(torch.stack([value.isfinite().all() for value in merged.parameters()]), name)
    return merged
