"""The requests that lm-evaluation-harness makes of a task's documents, and a model's responses to them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

from logitfusion.config.prompting import Prompting
from logitfusion.evaluate.faults import explaining
from logitfusion.evaluate.responses import Response

if TYPE_CHECKING:
    from logitfusion.fusion.lm_eval import FusedLMEval
    from logitfusion.tasks.documents import Document, OpenedTask


@dataclass(frozen=True)
class Request:
    """One request, and the document that it is of."""

    document: Document
    instance: Instance


def build_requests(task: OpenedTask, chosen: range, prompting: Prompting, lm: FusedLMEval) -> list[Request]:
    """The requests of some of a task's documents, with the prompts that they have in an evaluation of all.

    The examples of a prompt are drawn document after document, by one generator: so a subtask's prompts are all made,
    and those of the chosen documents kept.

    Args:
        chosen: places in ``task.documents``.
        lm: whose chat template is used, if ``prompting`` asks for one.
    """
    wanted: dict[str, dict[int, Document]] = {}
    for place in chosen:
        document = task.documents[place]
        wanted.setdefault(document.task, {})[document.index] = document
    chats = prompting.template == "chat"
    _seed()
    requests = []
    for name, documents in wanted.items():
        subtask = task.loaded["tasks"][name]
        subtask.set_fewshot_seed(DEFAULT_OTHER_SEED)
        with explaining(name):
            subtask.build_all_requests(
                system_instruction=prompting.system,
                apply_chat_template=chats,
                fewshot_as_multiturn=prompting.fewshot_as_multiturn,
                chat_template=lm.apply_chat_template if chats else None,
                tokenizer_name=lm.tokenizer_name if chats else "",
            )
        made = subtask.instances
        requests += [Request(documents[one.doc_id], one) for one in made if one.doc_id in documents]
    return requests


def _seed() -> None:
    """Draws of prompts begin as they do in ``lm_eval.simple_evaluate``."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)


class Recorder:
    """Puts requests to a model and keeps all that it says, with the weights of every token.

    Args:
        lm: the model.
        task: of the config.
        method: of the config.
    """

    def __init__(self, lm: FusedLMEval, task: str, method: str = "") -> None:
        self.lm, self.task, self.method = lm, task, method
        self._kinds = {
            "generate_until": self._generate,
            "loglikelihood": self._score,
            "loglikelihood_rolling": self._roll,
        }

    def record(self, requests: Sequence[Request]) -> list[Response]:
        """A response to each request, those of a kind asked together as the harness does."""
        kinds: dict[str, list[Request]] = {}
        for request in requests:
            kinds.setdefault(request.instance.request_type, []).append(request)
        responses = []
        for kind, asked in kinds.items():
            started = self._clock()
            instances = [request.instance for request in asked for _ in range(request.instance.repeats)]
            said = list(self._kinds[kind](instances))
            share = {"seconds": (self._clock() - started) / len(instances)}
            places = [(request, repeat) for request in asked for repeat in range(request.instance.repeats)]
            for (request, repeat), answer in zip(places, said, strict=True):
                responses.append(Response(**self._place(request, repeat), **answer, **share))
        return responses

    def _clock(self) -> float:
        """Seconds, with those of passes over prompts that another method made for this one."""
        return time.monotonic() + self.lm.saved_seconds

    def _place(self, request: Request, repeat: int) -> dict[str, str | int]:
        document = request.document
        place = {"method": self.method, "task": self.task, "subtask": document.task}
        place |= {"document": document.index, "id": document.id}
        return place | {"request": request.instance.idx, "repeat": repeat}

    def _generate(self, instances: list[Instance]) -> Iterator[dict[str, object]]:
        for answer in self.lm.generate(instances, disable_tqdm=True):
            found = answer.generation
            yield {
                "text": answer.text,
                "tokens": [self.lm.tokenizer.decode([token]) for token in found.token_ids],
                "token_ids": found.token_ids,
                "weights": found.weights,
                "expert": found.expert,
                "finish_reason": found.finish_reason,
            }

    def _score(self, instances: list[Instance]) -> Iterator[dict[str, object]]:
        for loglikelihood, greedy in self.lm.loglikelihood(instances, disable_tqdm=True):
            yield {"loglikelihood": loglikelihood, "greedy": greedy}

    def _roll(self, instances: list[Instance]) -> Iterator[dict[str, object]]:
        for loglikelihood in self.lm.loglikelihood_rolling(instances, disable_tqdm=True):
            yield {"loglikelihood": loglikelihood}
