"""Training a student on its own labels and on teachers' predictions of the same texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from logitfusion.config.objective import Objective
from logitfusion.config.prompting import TextFormat
from logitfusion.config.training import LoRA, Recipe
from logitfusion.distill.arguments import DistillationConfig, own_settings
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.on_policy import PACKED, own_answers
from logitfusion.distill.rows import DistillationCollator, PairedTexts, pair_held_out, pair_texts
from logitfusion.distill.sources import Source
from logitfusion.distill.teachers import check_teachers, share_vocabularies
from logitfusion.distill.trainer import DistillationTrainer, Measure
from logitfusion.errors import UserError
from logitfusion.models.examples import ExampleEncoder
from logitfusion.training.loop import train, trainer_arguments
from logitfusion.training.packing import make_batches
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
    held_out: Sequence[EncodedText] = (),
    measure: Measure | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Any,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train the student and return it, adapters unmerged, with its loss curve (the total and its parts).

    Args:
        texts: in the student's tokens.
        teachers: name -> its predictions of these texts; none for plain fine-tuning.
        held_out: texts that it is evaluated on, as ``settings`` say when.
        measure: further metrics of each evaluation.
        callbacks: beside those of ``train``.
        settings: of ``DistillationConfig``, beside those of the objective and the recipe.

    Raises:
        UserError: a teacher of other texts, or with too few entries a position; a k that the student can't fill.
    """
    if objective.on_policy and recipe.packing is not None:
        raise UserError(f"{name}: {PACKED}")
    check_teachers(teachers, objective, student, tokenizer, name)
    share_vocabularies(teachers, objective, student, tokenizer, texts)
    rows = pair_texts(texts, teachers, objective.alignment)
    recipe, own = recipe.for_texts(len(rows)), student.dtype
    logger.info("%s: %d texts, %d steps of %d", name, len(rows), recipe.steps, recipe.batch_size)
    evaluated = pair_held_out(held_out, teachers, objective.alignment)
    padding = plan_padding(student, tokenizer, chain(rows.unpaired(), evaluated.unpaired()), recipe, name)
    settings = {"per_device_eval_batch_size": padding.recipe.micro_batch} | own_settings(objective, recipe) | settings
    collator = DistillationCollator(padding.pad, list(teachers.values()))
    batches = make_batches(student, rows, recipe, padding, collator, name)
    trainer = DistillationTrainer(
        model=prepare(student, lora, recipe, name),
        args=trainer_arguments(batches.recipe, checkpoints, DistillationConfig, **settings),
        teachers=teachers,
        train_dataset=batches.rows,
        eval_dataset=PairedTexts(evaluated) if evaluated else None,
        measure=measure,
        callbacks=list(callbacks),
        data_collator=batches.collator,
        answers=own_answers(objective, ExampleEncoder(tokenizer, recipe.part(TextFormat)), collator, recipe.seed),
    )
    trained, curve = train(trainer, name, recipe, checkpoints, fingerprint)
    return as_saved(trained, own, name), curve
