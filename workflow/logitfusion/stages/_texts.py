"""The texts that stages learn from: those of a task, as the stage that made them recorded them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logitfusion.files import read_jsonl
from logitfusion.integrity import check_file
from logitfusion.models.examples import Text, read_example


def read_rows(splits: Sequence[Path], limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of all splits, the first ``limit`` of each.

    Raises:
        UserError: a file is missing, or not as it was recorded.
    """
    for path in splits:
        check_file(path)
    return [row for path in splits for row in read_jsonl(path)[:limit]]


def read_texts(splits: Sequence[Path], limit: int | None = None) -> list[Text]:
    """Prompts and responses, or chats, of all splits, in one order for students and teachers."""
    return [read_example(row) for row in read_rows(splits, limit)]
