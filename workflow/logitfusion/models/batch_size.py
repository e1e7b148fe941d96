"""Batches that are halved where the memory is used up."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import torch

from logitfusion.config.loading import LARGEST_BATCH
from logitfusion.errors import UserError, find_memory_error

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")


class BatchSize:
    """How many rows are computed together: given, or found.

    A found one begins at ``LARGEST_BATCH`` and is halved whenever a batch uses the memory up, which is computed again
    in parts then. It is kept for the batches that follow.

    Args:
        asked: a number, or ``"auto"``.
        unit: what the rows are, for the log.

    Raises:
        UserError: it is neither.
    """

    def __init__(self, asked: int | Literal["auto"], unit: str = "rows") -> None:
        if asked != "auto" and (not isinstance(asked, int) or asked < 1):
            raise UserError(f'batch_size is a whole number of at least 1, or "auto", not {asked!r}.')
        self.found, self.unit = asked == "auto", unit
        self.rows = LARGEST_BATCH if asked == "auto" else asked

    def each(
        self, batches: Iterable[list[Row]], compute: Callable[[list[Row]], Result]
    ) -> Iterator[tuple[list[Row], Result]]:
        """The batches, or parts of them, in order, and what is computed of each: of every row once.

        Args:
            batches: of at most ``rows`` rows.
            compute: must leave nothing behind where it fails, because its rows are computed again.
        """
        for batch in batches:
            waiting = deque([batch])
            while waiting:
                part = waiting.popleft()
                if self.found and len(part) > self.rows:
                    waiting.extendleft(reversed(_cut(part, self.rows)))
                    continue
                try:
                    result = compute(part)
                except Exception as error:
                    if not self.found or len(part) == 1 or find_memory_error(error) is None:
                        raise
                else:
                    yield part, result
                    continue
                # Outside of the handler, whose traceback holds the tensors of the batch that failed.
                _free()
                self.rows = len(part) // 2
                logger.info("the memory is used up by %d %s together: %d from now on", len(part), self.unit, self.rows)
                waiting.appendleft(part)


def _cut(rows: list[Row], size: int) -> list[list[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
