"""The texts that stages learn from: those of a task, as the stage that made them recorded them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from logitfusion.files import read_jsonl, stream_jsonl
from logitfusion.integrity import check_file
from logitfusion.models.examples import Text, read_example


def read_rows(splits: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of all splits.

    Raises:
        UserError: a file is missing, or not as it was recorded.
    """
    for path in splits:
        check_file(path)
    return [row for path in splits for row in read_jsonl(path)]


class SplitTexts(Iterable[Text]):
    """Prompts and responses, or chats, of all splits, in one order for students and teachers; read anew each time."""

    def __init__(self, splits: Sequence[Path], limit: int | None = None) -> None:
        """The first ``limit`` of each split.

        Raises:
            UserError: a file is missing, or not as it was recorded.
        """
        for path in splits:
            check_file(path)
        self.splits, self.limit = splits, limit

    def __iter__(self) -> Iterator[Text]:
        return (read_example(row) for path in self.splits for row in islice(stream_jsonl(path), self.limit))
