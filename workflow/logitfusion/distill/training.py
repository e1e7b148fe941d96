"""Training a student on its own labels and on teachers' predictions of the same texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.objective import Objective
from logitfusion.config.training import LoRA, Recipe
from logitfusion.distill.arguments import DistillationConfig
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.rows import DistillationCollator, pair_texts
from logitfusion.distill.sources import Source
from logitfusion.distill.trainer import DistillationTrainer
from logitfusion.errors import UserError
from logitfusion.models.architecture import count_vocabulary
from logitfusion.training.batches import order_rows
from logitfusion.training.loop import train, trainer_arguments
from logitfusion.training.padding import plan_padding
from logitfusion.training.weights import as_saved, prepare

logger = logging.getLogger(__name__)


def distill(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[EncodedText],
    teachers: dict[str, Source],
    objective: Objective,
    recipe: Recipe,
    *,
    lora: LoRA | None,
    checkpoints: Path,
    fingerprint: str,
    name: str,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train the student and return it, adapters unmerged, with its loss curve (the total and its parts).

    Args:
        texts: in the student's tokens.
        teachers: name -> its predictions of these texts; none for plain fine-tuning.

    Raises:
        UserError: a teacher of other texts, or with too few entries a position; a k that the student can't fill.
    """
    if objective.k > count_vocabulary(student):
        raise UserError(f"k is {objective.k}, and the student {name} has {count_vocabulary(student)} tokens; lower k.")
    for teacher, source in teachers.items():
        source.check(teacher, objective, tokenizer)
    rows = pair_texts(texts, teachers, objective.alignment)
    recipe, own = recipe.for_texts(len(rows)), student.dtype
    logger.info("%s: %d texts, %d steps of %d", name, len(rows), recipe.steps, recipe.batch_size)
    padding = plan_padding(student, tokenizer, rows, recipe, name)
    factors = {key: getattr(objective, key) for key in Objective.model_fields}
    trainer = DistillationTrainer(
        model=prepare(student, lora, recipe, name),
        args=trainer_arguments(padding.recipe, checkpoints, DistillationConfig, **factors),
        teachers=teachers,
        train_dataset=order_rows(rows, padding.recipe),
        data_collator=DistillationCollator(padding.pad, list(teachers.values()), padding.inputs),
    )
    trained, curve = train(trainer, name, recipe, checkpoints, fingerprint)
    return as_saved(trained, own, name), curve
