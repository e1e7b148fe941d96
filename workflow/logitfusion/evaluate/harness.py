"""What lm-evaluation-harness makes of recorded responses: its filters, metrics, aggregation and standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import lm_eval

from logitfusion.errors import UserError
from logitfusion.evaluate.faults import explaining
from logitfusion.evaluate.responses import Replay, Response
from logitfusion.evaluate.scores import HarnessScore, name_metric

if TYPE_CHECKING:
    from logitfusion.tasks.documents import OpenedTask


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a task.

    Attributes:
        scores: of the whole task, then of the subtasks of a group.
        samples: subtask -> what the harness keeps of each document and filter.
    """

    scores: list[HarnessScore]
    samples: dict[str, list[dict[str, Any]]]


def evaluate_responses(task: OpenedTask, responses: Iterable[Response], source: str) -> Evaluation:
    """Evaluate recorded responses to all documents of a task, as one evaluation of a model would.

    Args:
        source: what the responses come from, in messages.

    Raises:
        UserError: there is not one response to each request, or a metric can't be computed, or has no value.
    """
    replay = Replay(responses, source)
    with explaining(", ".join(task.loaded["tasks"])):
        results = lm_eval.evaluate(replay, task.loaded)
    replay.check_all_said()
    scores = list(_read_scores(task, results))
    known = list(dict.fromkeys(one.metric for one in scores))
    if (metric := name_metric(*task.metric)) not in known:
        raise UserError(
            f"The metric {metric!r} of {task.name!r} has no value, though its definition lists it; there are"
            f" {', '.join(known) or 'none'}: correct its metric_list, or what its process_results gives."
        )
    return Evaluation(scores, results["samples"])


def _read_scores(task: OpenedTask, results: Mapping[str, Any]) -> Iterator[HarnessScore]:
    for name, found in sorted(results["results"].items(), key=lambda item: item[0] != task.name):
        directions = results["higher_is_better"].get(name) or {}
        for key, value in found.items():
            metric, comma, filter_name = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, Real):
                stderr = found.get(f"{metric}_stderr,{filter_name}")
                yield HarnessScore(
                    subtask=None if name == task.name else name,
                    metric=name_metric(metric, filter_name),
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, Real) and math.isfinite(stderr) else None,
                    n=found.get("sample_count", {}).get(key, found["sample_len"]),
                    higher_is_better=directions.get(metric),
                )
