"""Healing a pruned model: it learns to answer like the model it was cut from, on given text.

The student keeps the teacher's width and output embedding, so the teacher's last hidden states are a target that costs
no vocabulary-sized product; the logits themselves are compared at a random share of the positions.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from logitfusion.config.training import HealRecipe
from logitfusion.models.architecture import reset_rope
from logitfusion.models.text import TextEncoder
from logitfusion.training.batches import TextCollator, order_rows
from logitfusion.training.loop import train, trainer_arguments
from logitfusion.training.padding import plan_padding

logger = logging.getLogger(__name__)


class HealingTrainer(Trainer):
    """Hidden-state regression at every position plus KL(teacher || student) at ``logit_share`` of them."""

    def __init__(self, *, teacher: PreTrainedModel, logit_share: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.teacher, self.logit_share = teacher.requires_grad_(False), logit_share

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))  # none where a row is alone
        real = mask.bool()
        for one in (self.teacher, model):
            reset_rope(one)
        found, log_probs, chosen = _read(model, inputs, real, self.logit_share)
        with torch.no_grad():
            target, target_log_probs, _ = _read(self.teacher, inputs, real, chosen)
        # Relative to the teacher's own variance, so that the two terms keep their proportion across models.
        distance = (found - target).square().mean() / target.var()
        divergence = nn.functional.kl_div(log_probs, target_log_probs, log_target=True, reduction="batchmean")
        return divergence + distance


def _read(
    model: PreTrainedModel, inputs: dict[str, Tensor], real: Tensor, share: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What a model's own forward gives its output layer, and what it makes of it (scales and caps included).

    Args:
        model: the student or the teacher.
        inputs: ids, mask and positions ``[B, L]``.
        real: the places ``[B, L]`` that count, n in all.
        share: of the places that get logits, drawn here; or which do, ``[n]``.

    Returns:
        last hidden states ``[n, H]``, log-probabilities ``[m, V]`` at the chosen places, and which these are ``[n]``.
    """
    kept: list[Tensor] = []

    def choose(_: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        found = arguments[0][real].float()
        if isinstance(share, Tensor):
            chosen = share
        else:
            chosen = torch.rand(len(found), device=found.device) < share
            chosen[0] = True
        kept.extend((found, chosen))
        return found[chosen]

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        # The class's forward, because that of an object may be wrapped for bf16: healing is in the weights' precision.
        logits = type(model).forward(model, **inputs, use_cache=False).logits
    finally:
        hook.remove()
    return kept[0], logits.float().log_softmax(-1), kept[1]


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
    padding = plan_padding(student, tokenizer, rows, recipe, "healing")
    trainer = HealingTrainer(
        model=student,
        teacher=teacher,
        logit_share=recipe.logit_share,
        args=trainer_arguments(padding.recipe, checkpoints),
        train_dataset=order_rows(rows, padding.recipe),
        data_collator=TextCollator(padding.pad, padding.inputs),
    )
    return train(trainer, "healing", recipe, checkpoints, fingerprint)
