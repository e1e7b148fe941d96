"""One row for each test example and method: what was generated, what answer it holds, whether it is right."""

from __future__ import annotations

from typing import Any

import pandas as pd

from logitfusion.errors import UserError
from logitfusion.tasks.answers import judge


def judge_generations(
    examples: list[dict[str, Any]], generations: dict[str, list[dict[str, Any]]], definition: dict[str, Any]
) -> pd.DataFrame:
    """Judge every method's generations of one task.

    Args:
        examples: the task's test split.
        generations: method -> the rows of all its shards, in any order.
        definition: the task's definition; its ``answer`` says what an answer looks like.

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
            judgement = judge(row["text"], example["answers"], definition["answer"])
            rows.append(
                {
                    "method": method,
                    "id": row["id"],
                    "prompt": example["prompt"],
                    "gold": example["answers"][0],
                    "text": row["text"],
                    "answer": judgement.answer,
                    "correct": judgement.correct,
                    "format_failure": judgement.format_failure,
                    "tokens": row["tokens"],
                    "weights": row["weights"],
                    "expert": row["expert"],
                    "seconds": row["seconds"],
                }
            )
    return pd.DataFrame(rows)
