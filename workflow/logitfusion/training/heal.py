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
        with torch.no_grad():
            target = self.teacher.model(**inputs, use_cache=False).last_hidden_state[real].float()
        found = model.model(**inputs, use_cache=False).last_hidden_state[real].float()
        # Relative to the teacher's own variance, so that the two terms keep their proportion across models.
        distance = (found - target).square().mean() / target.var()
        chosen = torch.rand(len(found), device=found.device) < self.logit_share
        chosen[0] = True
        with torch.no_grad():
            target_log_probs = self.teacher.lm_head(target[chosen]).float().log_softmax(-1)
        log_probs = model.lm_head(found[chosen]).float().log_softmax(-1)
        divergence = nn.functional.kl_div(log_probs, target_log_probs, log_target=True, reduction="batchmean")
        return divergence + distance


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
    rows = [{"input_ids": tokenizer.encode(text)[: recipe.max_tokens - 1] + [tokenizer.eos_token_id]} for text in texts]
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
