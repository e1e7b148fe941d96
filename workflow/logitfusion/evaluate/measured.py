"""The metrics of a model that is still trained: it answers the validation documents of tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import unwrap_peft_model

from logitfusion.config.prompting import Prompting
from logitfusion.evaluate.harness import evaluate_responses
from logitfusion.evaluate.requests import Recorder, build_requests
from logitfusion.evaluate.responses import Response
from logitfusion.evaluate.scores import HarnessScore, name_metric
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.models.forward import evaluating
from logitfusion.shards import shard_range
from logitfusion.tasks.documents import OpenedTask
from logitfusion.training.batches import process, processes


@dataclass(frozen=True)
class Measure:
    """What a student is measured by.

    Attributes:
        tasks: by name, opened with their validation documents.
        tokenizer: the student's.
        prompting: how documents are put to it.
        batch_size: prompts that are answered together.
    """

    tasks: Mapping[str, OpenedTask]
    tokenizer: PreTrainedTokenizerBase
    prompting: Prompting
    batch_size: int | Literal["auto"]

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """The metric of each task by its name; ``metric``, their mean, if all are better when they are higher.

        Every process answers a part.

        Raises:
            UserError: a task whose metric has no value.
        """
        with evaluating(model), _own_draws(), redirect_stderr(StringIO()):  # the harness's bars
            lm = FusedLM(unwrap_peft_model(model), tokenizer=self.tokenizer)
            scores = {name: self._measure(name, task, lm) for name, task in self.tasks.items()}
        found = {name: score.value for name, score in scores.items()}
        if all(score.higher_is_better is not False for score in scores.values()):
            found["metric"] = float(np.mean(list(found.values())))
        return found

    def _measure(self, name: str, task: OpenedTask, lm: FusedLM) -> HarnessScore:
        evaluated = FusedLMEval(lm, batch_size=self.batch_size, seed=0)
        mine = shard_range(len(task.documents), process(), processes())
        requests = build_requests(task, mine, self.prompting, evaluated) if mine else []
        said: list[Response] = gather_object(Recorder(evaluated, name).record(requests))
        scores = evaluate_responses(task, said, f"task {name!r}").scores
        wanted = name_metric(*task.metric)
        return next(one for one in scores if one.subtask is None and one.metric == wanted)


@contextmanager
def _own_draws() -> Iterator[None]:
    """Leave the random numbers of the training as they are."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
