"""What the stages of distillation share: the texts, in one order for student and teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from logitfusion.files import read_jsonl
from logitfusion.models.examples import Text, read_example


def read_texts(splits: Sequence[Path], limit: int | None) -> list[Text]:
    """Prompts and responses, or chats, of all splits, the first ``limit`` of each."""
    return [read_example(row) for path in splits for row in read_jsonl(path)[:limit]]
