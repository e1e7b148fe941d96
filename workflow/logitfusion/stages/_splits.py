"""The files of a task's texts, as its record names them; apart from what reads them, which needs a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitfusion.integrity import as_rows, record_files


def record_splits(record: Path, *splits: Path) -> list[dict[str, Any]]:
    """What the record of a task keeps of the files of its texts, which are beside it."""
    return as_rows(record_files(record.parent, [path.name for path in splits if path.parent == record.parent]))
