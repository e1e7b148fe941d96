"""Responses of a model to the requests of a task, kept one a row, and played back to lm-evaluation-harness.

Filters, metrics, aggregation and standard errors need all documents at once, and no model: shards only keep what the
model said, and one evaluation of all of it gives what an evaluation in one go would have given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from logitfusion.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a model said to one request; its fields are the keys of a row.

    Attributes:
        method: of the config, or the model that answered alone; empty of one that is measured while it is trained.
        task: of the config.
        subtask: the harness's own task: one of a group, or the only one.
        document: place in the documents that the subtask evaluates.
        id: the document's number in its data set.
        request: of the document's requests: mostly one a choice.
        repeat: of requests that are asked several times.
        text: that was generated; None where likelihoods are asked for.
        loglikelihood: natural, of a continuation or a whole text; None where texts are generated.
        greedy: whether greedy decoding would give the continuation; None where that is not asked.
        tokens, token_ids: that were generated, the last one included even if it ended the text.
        weights: of the experts, at each token; empty where nothing steers.
        expert: place of the expert that steered each token, -1 where none did.
        finish_reason: see ``fusion.Generation``.
        seconds: an equal share of the time that all requests of its kind took, or would have taken a method alone.
    """

    method: str = ""
    task: str
    subtask: str
    document: int
    id: int
    request: int = 0
    repeat: int = 0
    text: str | None = None
    loglikelihood: float | None = None
    greedy: bool | None = None
    tokens: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    expert: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    seconds: float = 0.0

    @property
    def place(self) -> tuple[str, int, int, int]:
        """What it answers: subtask, document, request, repeat."""
        return self.subtask, self.document, self.request, self.repeat


class Replay(LM):
    """A model of lm-evaluation-harness that says again what was said before.

    Args:
        responses: to all requests of some tasks, in any order.
        source: what they come from, in messages.

    Raises:
        UserError: a request has several responses.
    """

    def __init__(self, responses: Iterable[Response], source: str) -> None:
        super().__init__()
        self.source, self.waiting = source, {}
        for response in responses:
            if response.place in self.waiting:
                raise self._refuse(response.place, "several responses")
            self.waiting[response.place] = response

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [self._get(response, "text") for response in self._take(requests)]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [
            (float(self._get(response, "loglikelihood")), self._get(response, "greedy"))
            for response in self._take(requests)
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return [float(self._get(response, "loglikelihood")) for response in self._take(requests)]

    def check_all_said(self) -> None:
        """Refuse responses to what nobody asked.

        Raises:
            UserError: names the first.
        """
        if self.waiting:
            raise self._refuse(next(iter(self.waiting)), "a response, and the task does not ask for it")

    def _take(self, requests: Iterable[Instance]) -> Iterable[Response]:
        repeats: dict[int, int] = {}
        for request in requests:  # a request that is asked several times is here as often
            number = repeats[id(request)] = repeats.get(id(request), -1) + 1
            place = (request.task_name, request.doc_id, request.idx, number)
            if place not in self.waiting:
                raise self._refuse(place, "no response")
            yield self.waiting.pop(place)

    def _get(self, response: Response, name: str) -> Any:
        value = getattr(response, name)
        if value is None:
            raise self._refuse(response.place, f"a response without its {name}")
        return value

    def _refuse(self, place: tuple[str, int, int, int], what: str) -> UserError:
        subtask, document, request, repeat = place
        which = f"request {request}" + (f" (repeat {repeat})" if repeat else "")
        return UserError(
            f"The shards of {self.source} have {what}: {which} of document {document} of {subtask!r}; delete them and"
            " run again."
        )
