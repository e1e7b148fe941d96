"""One row for each document and method: what the model said, the answer in it, and what each metric makes of that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from logitfusion.evaluate.harness import Evaluation
from logitfusion.evaluate.responses import Response
from logitfusion.evaluate.scores import METRIC, name_metric
from logitfusion.tasks.definition import INVALID

if TYPE_CHECKING:
    from logitfusion.tasks.documents import OpenedTask


@dataclass(frozen=True, kw_only=True)
class JudgedExample:
    """A row of the judged table; its fields are the columns, and those of ``METRIC`` and ``mark_correct``.

    Attributes:
        subtask: the harness's own task: one of a group, or the only one.
        id: the document's number in the data set of its subtask.
        prompt: without examples.
        gold: the first of the accepted answers.
        text: that was generated, or the choice that is likeliest; empty where a text is only scored.
        answer: what the filters leave of the text; None is a format failure, or nothing to choose from.
        tokens: of the generated text.
        weights: of the experts, at each token; empty where nothing steers.
        expert: place of the expert that was chosen at each token, -1 where none was.
        choices: among which the likeliest is taken; empty where a text is generated.
        loglikelihoods: natural, of the choices.
        seconds: an equal share of its shard's decoding time.
    """

    method: str
    subtask: str
    id: int
    prompt: str
    gold: str
    text: str
    answer: str | None
    format_failure: bool
    tokens: list[str]
    weights: list[list[float]]
    expert: list[int]
    choices: list[str]
    loglikelihoods: list[float]
    seconds: float


def judge_examples(
    task: OpenedTask, method: str, responses: Iterable[Response], evaluation: Evaluation
) -> pd.DataFrame:
    """The rows of one method, subtask by subtask, documents by their numbers.

    Each column of ``METRIC`` has what a document adds to the mean of a metric: NaN where it adds no single number.
    """
    said: dict[tuple[str, int], list[Response]] = defaultdict(list)
    for response in sorted(responses, key=lambda response: response.place):
        said[response.subtask, response.document].append(response)
    rows: list[dict[str, Any]] = []
    for name, samples in evaluation.samples.items():
        by_document: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for sample in samples:
            by_document[sample["doc_id"]].append(sample)
        found = [
            (said[name, number], _judge(task, method, name, said[name, number], own))
            for number, own in by_document.items()
        ]
        rows += [row for _, row in sorted(found, key=lambda pair: pair[0][0].id)]
    return pd.DataFrame(rows)


def mark_correct(examples: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table with the columns ``score``, of the metric that methods are compared by, and ``correct``.

    Whether a document is right is known where all its scores are 0 or 1; a metric that grades leaves it empty.
    """
    scores = examples.get(METRIC + metric, pd.Series(np.nan, examples.index))
    binary = scores.isin((0.0, 1.0)).all()
    correct = (scores == 1.0).astype("boolean") if binary else pd.Series(pd.NA, examples.index, dtype="boolean")
    return examples.assign(score=scores, correct=correct)


def _judge(
    task: OpenedTask, method: str, name: str, said: Sequence[Response], samples: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A row; ``samples`` are one a filter."""
    subtask = task.loaded["tasks"][name]
    _, wanted = task.metric
    main = next((sample for sample in samples if sample["filter"] == wanted), samples[0])
    answer = _Answer.generated(main, said) if said[0].text is not None else _Answer.chosen(subtask, main, said)
    example = JudgedExample(
        method=method,
        subtask=name,
        id=said[0].id,
        prompt=_first_text(main["arguments"][0][0]),
        gold=_say_gold(subtask, main),
        text=answer.text,
        answer=answer.answer,
        format_failure=answer.invalid,
        tokens=said[0].tokens,
        weights=said[0].weights,
        expert=said[0].expert,
        choices=answer.choices,
        loglikelihoods=answer.loglikelihoods,
        seconds=sum(response.seconds for response in said),
    )
    return vars(example) | dict(_measure(samples))


def _measure(samples: Iterable[dict[str, Any]]) -> Iterable[tuple[str, float]]:
    for sample in samples:
        for metric in sample["metrics"]:
            value = sample[metric]
            number = float(value) if isinstance(value, (Real, np.bool_)) else np.nan
            yield METRIC + name_metric(metric, sample["filter"]), number


@dataclass(frozen=True)
class _Answer:
    text: str
    answer: str | None
    invalid: bool
    choices: list[str]
    loglikelihoods: list[float]

    @classmethod
    def generated(cls, sample: dict[str, Any], said: Sequence[Response]) -> _Answer:
        """What the filters leave of a text."""
        answer = sample["filtered_resps"][0]
        invalid = answer in (INVALID, [INVALID])
        return cls(said[0].text, None if invalid else str(answer), invalid, [], [])

    @classmethod
    def chosen(cls, subtask: Any, sample: dict[str, Any], said: Sequence[Response]) -> _Answer:
        """The likeliest choice; a text that is only scored has none."""
        if subtask.config.doc_to_choice is None:
            return cls("", None, False, [], [response.loglikelihood for response in said])
        choices = list(map(str, subtask.doc_to_choice(sample["doc"])))
        found = [response.loglikelihood for response in said][: len(choices)]  # those without a prompt come after them
        text = choices[int(np.argmax(found))]
        return cls(text, text, False, choices, found)


def _say_gold(subtask: Any, sample: dict[str, Any]) -> str:
    """The first accepted answer; a number names a choice."""
    target = sample["target"]
    if subtask.config.doc_to_choice is not None:
        choices = subtask.doc_to_choice(sample["doc"])
        target = subtask.doc_to_text(sample["doc"]) if subtask.multiple_input else target
        target = target[0] if isinstance(target, list) and target else target
        target = choices[target] if isinstance(target, int) and 0 <= target < len(choices) else target
    return _first_text(target)


def _first_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return str(value[0]) if value else ""
    return str(value)
