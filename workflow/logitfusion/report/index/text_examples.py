"""Judged texts in columns, small enough for a page: prompts once for all methods, weights in thousandths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from logitfusion.report.judged import find_outcomes, name_examples


@dataclass(frozen=True, eq=False)
class TextExamples:
    """The test examples of a track with what every method generated for them.

    Attributes:
        title: of the track.
        note: what a reader sees here, in a sentence.
        judged: task -> its judged examples (see ``evaluate.judged``).
        methods: in the order of the page; a task may lack some.
        experts: task -> steered method -> its experts in the order of its weights.
        colours: expert -> its colour in the whole report.
        beside: what is shown beside the first method at the start: nothing, or all other methods.
    """

    title: str
    note: str
    judged: dict[str, pd.DataFrame]
    methods: Sequence[str]
    experts: dict[str, dict[str, Sequence[str]]] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    beside: Literal["", "*"] = ""

    @property
    def names(self) -> list[str]:
        """The tasks."""
        return list(self.judged)

    def count(self, task: str) -> int:
        """How many examples a task has."""
        return len(self.judged[task][["subtask", "id"]].drop_duplicates())

    def describe(self) -> dict[str, Any]:
        """What the page needs besides the examples."""
        return {
            "kind": "texts",
            "title": self.title,
            "note": self.note,
            "colours": dict(self.colours),
            "beside": self.beside,
        }


def encode_texts(source: TextExamples, task: str) -> dict[str, Any]:
    """Columns of a task's examples by id: ``id prompt gold`` and, by method, those of `_encode_method`."""
    judged = name_examples(source.judged[task])
    ids = sorted(judged["id"].unique())
    first = judged.drop_duplicates("id").set_index("id").loc[ids]
    present = set(judged["method"])
    experts = source.experts.get(task, {})
    return {
        "id": [name if isinstance(name, str) else int(name) for name in ids],
        "prompt": first["prompt"].tolist(),
        "gold": [str(gold) for gold in first["gold"]],
        "methods": {
            method: _encode_method(judged[judged["method"] == method].set_index("id").loc[ids], experts.get(method, ()))
            for method in source.methods
            if method in present
        },
    }


def cut_texts(columns: dict[str, Any], most: int) -> dict[str, Any]:
    """The first examples of what `encode_texts` made."""
    methods = {
        name: {key: value if key == "experts" else value[:most] for key, value in method.items()}
        for name, method in columns["methods"].items()
    }
    return {key: columns[key][:most] for key in ("id", "prompt", "gold")} | {"methods": methods}


def _encode_method(rows: pd.DataFrame, experts: Sequence[str]) -> dict[str, Any]:
    """``text answer outcome`` and, of a steered method, ``tokens weights expert``; ``score`` of a metric that grades.

    A text that its tokens spell is None; ``outcome`` is a letter an example; ``weights`` are thousandths, token by
    token and expert by expert.
    """
    answers = [None if pd.isna(answer) else str(answer) for answer in rows["answer"]]
    columns = {"experts": list(experts), "outcome": "".join(find_outcomes(rows)), "answer": answers}
    if rows["correct"].isna().any():
        columns["score"] = [None if pd.isna(score) else round(float(score), 4) for score in rows["score"]]
    if not experts:
        return columns | {"text": rows["text"].tolist()}
    tokens = [list(row) for row in rows["tokens"]]
    return columns | {
        "text": [None if text == "".join(own) else text for text, own in zip(rows["text"], tokens, strict=True)],
        "tokens": tokens,
        "weights": [_to_thousandths(row) for row in rows["weights"]],
        "expert": [[int(place) for place in row] for row in rows["expert"]],
    }


def _to_thousandths(weights: Sequence[Sequence[float]]) -> list[int]:
    return [round(1000 * float(weight)) for token in weights for weight in token]
