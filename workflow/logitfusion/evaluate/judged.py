"""One row for each test example and method: what was generated, what answer it holds, whether it is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from logitfusion.errors import UserError


@dataclass(frozen=True, kw_only=True)
class JudgedExample:
    """A row of the judged table; its fields are the columns.

    Attributes:
        gold: the first of the accepted answers.
        answer: what was found in the generated text; None is a format failure.
        tokens: of the generated text.
        weights: of the experts, at each token; empty where nothing steers.
        expert: place of the expert that was chosen at each token, -1 where none was.
        seconds: an equal share of its shard's decoding time.
    """

    method: str
    id: int
    prompt: str
    gold: str
    text: str
    answer: str | None
    correct: bool
    format_failure: bool
    tokens: list[str]
    weights: list[list[float]]
    expert: list[int]
    seconds: float


def judge_generations(
    examples: list[dict[str, Any]], generations: dict[str, list[dict[str, Any]]], form: Any
) -> pd.DataFrame:
    """Judge every method's generations of one task.

    Args:
        examples: the task's test split.
        generations: method -> the rows of all its shards, in any order.
        form: what an answer looks like, from the task's definition.

    Raises:
        UserError: a method's shards don't hold each example exactly once.
    """
    by_id = {example["id"]: example for example in examples}
    rows = []
    for method, generated in generations.items():
        ids = [row["id"] for row in generated]
        if sorted(ids) != sorted(by_id):
            raise UserError(
                f"The shards of method {method!r} hold {len(ids)} generations ({len(set(ids))} distinct) for"
                f" {len(by_id)} test examples; delete the method's shards and run again."
            )
        for row in sorted(generated, key=lambda row: row["id"]):
            example = by_id[row["id"]]
            judgement = form(row["text"], example["answers"])
            rows.append(
                JudgedExample(
                    method=method,
                    prompt=example["prompt"],
                    gold=example["answers"][0],
                    answer=judgement.answer,
                    correct=judgement.correct,
                    format_failure=judgement.format_failure,
                    **{key: row[key] for key in ("id", "text", "tokens", "weights", "expert", "seconds")},
                )
            )
    return pd.DataFrame(map(vars, rows))
