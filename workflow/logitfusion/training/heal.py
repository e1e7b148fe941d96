"""Healing a pruned model: it learns to answer like the model it was cut from, on given text.

The student keeps the teacher's width and output embedding, so the teacher's last hidden states are a target that costs
no vocabulary-sized product; the logits themselves are compared at a random share of the positions.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.training import HealRecipe, Recipe
from logitfusion.models.architecture import reset_rope
from logitfusion.models.text import TextEncoder
from logitfusion.training.batches import KEPT, TextCollator, is_main_process, micro_batch, processes
from logitfusion.training.kept import chosen_logits
from logitfusion.training.loop import train, trainer_arguments
from logitfusion.training.packing import make_batches
from logitfusion.training.padding import plan_padding
from logitfusion.training.schedule import WarmedTrainer
from logitfusion.training.weights import as_saved, prepare

logger = logging.getLogger(__name__)


class HealingTrainer(WarmedTrainer):
    """Hidden-state regression at every position plus KL(teacher || student) at ``logit_share`` of them."""

    def __init__(self, *, teacher: PreTrainedModel, logit_share: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.teacher, self.logit_share = teacher.requires_grad_(False), logit_share

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        real = inputs.pop(KEPT)
        student = self.accelerator.unwrap_model(model)
        for one in (self.teacher, student):
            reset_rope(one)
        drawn = _draw(real, self.logit_share, self.accelerator)
        found, log_probs = _read(model, student, inputs, real, drawn)
        with torch.no_grad():
            target, target_log_probs = _read(self.teacher, self.teacher, inputs, real, drawn)
        # Relative to the teacher's own variance, so that the two terms keep their proportion across models.
        distance = (found - target).square().mean() / target.var()
        divergence = nn.functional.kl_div(log_probs, target_log_probs, log_target=True, reduction="batchmean")
        return divergence + distance


def _draw(real: Tensor, share: float, accelerator: Accelerator) -> Tensor:
    """Which of the places ``[n]`` of this process's micro-batch get logits, ``[n]``; the first does always.

    Every process draws for all of them, one after the other, so that each is drawn as in one process alone.
    """
    counts = accelerator.gather(torch.tensor([len(real)], device=real.device)).tolist()
    drawn = [torch.rand(count, device=real.device) < share for count in counts][accelerator.process_index]
    drawn[0] = True
    return drawn


def _read(
    model: nn.Module, bare: PreTrainedModel, inputs: dict[str, Tensor], real: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """What a model's own forward gives its output layer, and what it makes of it (scales and caps included).

    Args:
        model: the student, however several processes wrap it, or the teacher.
        bare: the same without wrapping.
        inputs: ids ``[B, L]``, and positions of texts that are joined.
        real: the places that count, ``[n]``, row by row.
        chosen: which of them get logits, ``[n]``, m in all.

    Returns:
        last hidden states ``[n, H]``, and log-probabilities ``[m, V]`` at the chosen places.
    """
    kept: list[Tensor] = []

    def choose(hidden: Tensor) -> Tensor:
        kept.append(hidden[real].float())
        return kept[0][chosen]

    logits = chosen_logits(model, bare, inputs, choose)
    return kept[0], logits.float().log_softmax(-1)


def warn_of_cut_batches(recipe: Recipe) -> None:
    """Say where processes cut the micro-batches of one process: variances and means are those of a micro-batch."""
    cut, uncut = micro_batch(recipe, processes()), micro_batch(recipe, 1)
    if cut != uncut and is_main_process():
        logger.warning(
            "healing: %d processes compare %d texts at a time and one process %d, so the result is another one;"
            " micro_batch: %d has the same in both",
            processes(), cut, uncut, cut,
        )  # fmt: skip


def heal(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    recipe: HealRecipe,
    *,
    checkpoints: Path,
    fingerprint: str,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Distil ``teacher`` into ``student`` on ``texts``; returns the student and its loss curve."""
    encoder = TextEncoder(tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = [{"input_ids": encoder.prompt(text)[: recipe.max_tokens - 1] + end} for text in texts]
    logger.info("healing: %d texts, %d tokens", len(rows), sum(len(row["input_ids"]) for row in rows))
    recipe, own = recipe.for_texts(len(rows)), student.dtype
    padding = plan_padding(student, tokenizer, rows, recipe, "healing")
    batches = make_batches(student, rows, recipe, padding, TextCollator(padding.pad), "healing")
    # Healing compares small differences: its products are in the weights' precision, whatever the recipe's is.
    exact = batches.recipe.model_copy(update={"precision": "fp32"})
    warn_of_cut_batches(exact)
    trainer = HealingTrainer(
        model=prepare(student, None, recipe, "healing"),
        teacher=teacher.float(),
        logit_share=recipe.logit_share,
        args=trainer_arguments(exact, checkpoints),
        train_dataset=batches.rows,
        data_collator=batches.collator,
    )
    healed, curve = train(trainer, "healing", recipe, checkpoints, fingerprint)
    return as_saved(healed, own, "healing"), curve
