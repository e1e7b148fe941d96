"""From a model's folder and texts to the folder of a trained student: what the workflow and the command line share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from logitfusion.config.distill import StudentTraining
from logitfusion.config.monitoring import Monitoring
from logitfusion.config.objective import Objective
from logitfusion.config.training import Recipe, Training
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.sources import Source
from logitfusion.distill.trainer import Measure
from logitfusion.distill.training import distill
from logitfusion.errors import UserError
from logitfusion.files import remove
from logitfusion.models.examples import Text
from logitfusion.models.load import load_tokenizer, use_threads
from logitfusion.training.batches import is_main_process
from logitfusion.training.evaluations import Evaluations, evaluation_callbacks, evaluation_settings
from logitfusion.training.folder import write_trained
from logitfusion.training.weights import load_trainee

logger = logging.getLogger(__name__)


def train_student(
    base: Path,
    texts: Iterable[Text],
    teachers: Mapping[str, Source],
    objective: Objective,
    training: StudentTraining,
    *,
    held_out: Iterable[Text] = (),
    measure: Measure | None = None,
    seed: int,
    name: str,
    output: Path,
    checkpoints: Path,
    fingerprint: str,
    made_with: Mapping[str, Any],
) -> None:
    """Train a student and write its folder; a training that was stopped goes on from its last checkpoint.

    Args:
        base: the untrained student's folder.
        texts: that it learns; read once, one after the other.
        teachers: name -> its predictions of them; none for plain fine-tuning.
        held_out: texts that it is measured on meanwhile, as ``training`` says.
        measure: metrics of the student meanwhile.
        name: of the student, for messages.
        output: its folder.
        checkpoints: a folder for them, which is removed when the student is written.
        fingerprint: of all that decides the outcome: a checkpoint of another one is never gone on from.
        made_with: for the record beside the student.

    Raises:
        UserError: a model or teachers that can't be used, or a training that can't go on.
    """
    use_threads()
    if measure is not None and training.sharded:
        raise UserError(
            "sharded parts the student among processes, and tasks are answered by a whole one; evaluate files or texts,"
            " or leave sharded out."
        )
    if measure is None and training.best_by == "metric":
        raise UserError(
            "best_by is metric, and nothing of evaluate is a task that has one; name tasks there, or go by the loss."
        )
    recipe = Recipe.model_validate(dict(training.part(Training)) | {"seed": seed})
    monitoring = training.part(Monitoring)
    evaluations = Evaluations(name, monitoring)
    settings = evaluation_settings(monitoring, name)
    if "tensorboard" in monitoring.report_to:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output.with_name(f"{output.name}.runs")))
    tokenizer = load_tokenizer(base)
    form = {"template": recipe.template, "system": recipe.system, "max_tokens": recipe.max_tokens}
    model, curve = distill(
        load_trainee(base, training),
        tokenizer,
        encode_texts(tokenizer, texts, **form),
        dict(teachers),
        objective,
        recipe,
        lora=training.lora if training.method == "lora" else None,
        checkpoints=checkpoints,
        fingerprint=fingerprint,
        name=name,
        held_out=encode_texts(tokenizer, held_out, **form),
        measure=measure,
        callbacks=evaluation_callbacks(evaluations),
        **settings,
    )
    if is_main_process():
        write_trained(output, model, tokenizer, base, dict(made_with), curve, evaluations.rows)
        remove(checkpoints)
        logger.info("%s: written", name)
