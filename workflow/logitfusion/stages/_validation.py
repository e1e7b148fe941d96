"""What the ways to steer make of the validation documents, by the tasks' own metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.jobs.fusion import TuneJob
from logitfusion.config.keywords import read_options
from logitfusion.errors import UserError
from logitfusion.evaluate.harness import evaluate_responses
from logitfusion.evaluate.judged import judge_examples
from logitfusion.evaluate.requests import Recorder, build_requests
from logitfusion.evaluate.responses import Response
from logitfusion.evaluate.scores import METRIC, JudgedTask, name_metric
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.fusion.ways import FOLDS, Way
from logitfusion.stages._models import Fusions
from logitfusion.stages._stage import logger
from logitfusion.tasks.documents import OpenedTask


@dataclass(frozen=True)
class Validation:
    """The validation documents of some tasks, and the fusions that decode them."""

    tasks: Mapping[str, OpenedTask]
    fusions: Fusions
    job: TuneJob
    gaps: Mapping[str, Sequence[float]]
    """Task -> the likelihood gap of each document's prompt; none where all prompts are steered."""

    def find_familiar(self, tasks: Sequence[str], without: int | None = None) -> dict[str, float]:
        """From which likelihood gap on prompts are left to the large model, as an option; by all but one fold."""
        if self.job.tune.steered_share is None:
            return {}
        seen = [gap for name in tasks for place, gap in enumerate(self.gaps[name]) if place % FOLDS != without]
        return {"familiar": float(np.quantile(seen, self.job.tune.steered_share))}

    def measure(self, tasks: Sequence[str], ways: Sequence[Way]) -> list[Way]:
        """The ways with what they make of each document: decoded by options that were chosen without it.

        Raises:
            UserError: a metric that is no mean over documents.
        """
        found: list[dict[str, Tensor]] = [{} for _ in ways]
        familiar = [self.find_familiar(tasks, fold) for fold in range(FOLDS)]
        for name in tasks:
            self.fusions.memory.clear()  # all ways read the same prompts, a task after the other
            for way, metrics in zip(ways, found, strict=True):
                options = [one | two for one, two in zip(way.without, familiar, strict=True)]
                said = [answer for fold in range(FOLDS) for answer in self._decode(name, fold, options[fold])]
                metrics[name] = _measure(self.tasks[name], said, way.name)
                logger.info("%s: %s has %.3f", name, way.name, float(metrics[name].mean()))
        return [replace(way, metrics=metrics) for way, metrics in zip(ways, found, strict=True)]

    def _decode(self, name: str, fold: int, options: Mapping[str, Any]) -> list[Response]:
        """The responses to the documents of one fold."""
        task, job = self.tasks[name], self.job
        documents = range(fold, len(task.documents), FOLDS)
        if not documents:
            return []
        lm = FusedLMEval(
            self.fusions.open(job.tasks[name].models, read_options(FusionOptions, dict(job.options) | options)),
            batch_size=job.batch_size,
            seed=job.seed + fold,
        )
        return Recorder(lm, name).record(build_requests(task, documents, job.prompting, lm))


def _measure(task: OpenedTask, said: list[Response], way: str) -> Tensor:
    """The metric of each document, higher for better."""
    evaluation = evaluate_responses(task, said, f"way {way!r}")
    metric = name_metric(*task.metric)
    examples = judge_examples(task, way, said, evaluation)
    values = torch.tensor(examples[METRIC + metric].to_numpy(float))
    if not values.isfinite().all():
        raise UserError(
            f"The metric {metric!r} of {task.name!r} is no mean over documents, so differences have no standard error;"
            " set tune.criterion to likelihood."
        )
    judged = JudgedTask(examples, metric, {way: evaluation.scores})
    return values if judged.higher_is_better else -values
