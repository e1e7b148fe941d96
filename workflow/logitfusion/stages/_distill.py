"""What the stages of distillation share: the texts, in one order for student and teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from logitfusion.files import read_jsonl


def read_texts(splits: Sequence[Path], limit: int | None) -> list[tuple[str, str]]:
    """Prompts and responses of all splits, the first ``limit`` of each."""
    return [(row["prompt"], row["completion"]) for path in splits for row in read_jsonl(path)[:limit]]
