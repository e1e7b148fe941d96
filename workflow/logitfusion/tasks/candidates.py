"""The rows of a source that are texts to learn from: found in one reading, of which a digest of each prompt is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfusion.errors import UserError
from logitfusion.tasks.conversations import UnusableError
from logitfusion.tasks.formatting import find_prompt, matches
from logitfusion.tasks.hub_rows import BATCH
from logitfusion.tasks.streaming import Source

logger = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between lines that say how far the reading is
Numbers = NDArray[np.int64]
REPEATED = "a prompt that stands earlier"


@dataclass
class Candidates:
    """The rows of a source that are texts.

    Attributes:
        rows: how many there are in all.
        end: the number after the last one's (a file's empty lines have numbers too).
        numbers: of those that are texts, ``[candidates]``.
        prompts: a digest of each one's prompt, ``[candidates]``, 64 bits.
        left_out: how many rows are none, by reason.
    """

    rows: int
    end: int
    numbers: Numbers
    prompts: NDArray[np.uint64]
    left_out: Counter[str]

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Leave others out, whose prompts are repeated."""
        if repeated := int((~which).sum()):
            self.left_out[REPEATED] = repeated
        self.numbers, self.prompts = self.numbers[which], self.prompts[which]


def survey(source: Source) -> Candidates:
    """Read all rows of a source once, and find those that are texts.

    Raises:
        UserError: none is, or a value of a filter is that of no row.
    """
    rows, number, left_out, numbers, prompts = 0, -1, Counter[str](), array("q"), array("Q")
    watch, told = _FilterWatch(source), time.monotonic()
    for number, row in source.stream():
        rows += 1
        if rows % BATCH == 0 and time.monotonic() - told > INTERVAL:
            told = time.monotonic()
            logger.info("%s: %d rows read", source.title, rows)
        watch(row)
        try:
            prompt = find_prompt(source.formatter(row))
        except UnusableError as reason:
            left_out[str(reason)] += 1
            continue
        numbers.append(number)
        prompts.append(int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest()))
    watch.check()
    if not numbers:
        reasons = ", ".join(f"{count} have {reason}" for reason, count in left_out.most_common(3))
        raise UserError(f"{source.title} has no texts to learn from ({reasons or 'it is empty'}); correct the task.")
    logger.info("%s: %d rows, %d texts", source.title, rows, len(numbers))
    return Candidates(rows, number + 1, np.array(numbers, np.int64), np.array(prompts, np.uint64), left_out)


class _FilterWatch:
    """Sees that each value of a filter is that of some row: else it is a mistake, such as YAML's Yes, which is true."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.missing = [(column, value) for column, values in source.entry.where.items() for value in values]
        self.seen: dict[str, list[str]] = {column: [] for column in source.entry.where}

    def __call__(self, row: dict[str, Any]) -> None:
        if not self.missing:
            return
        self.missing = [(column, value) for column, value in self.missing if not matches(row[column], (value,))]
        for column, seen in self.seen.items():
            if len(seen) < 5 and (shown := json.dumps(row[column], ensure_ascii=False, default=str)[:60]) not in seen:
                seen.append(shown)

    def check(self) -> None:
        if self.missing:
            column, value = self.missing[0]
            raise UserError(
                f"No row of {self.source.title} has {json.dumps(value, ensure_ascii=False)} in the column"
                f" {column!r}, as where asks; there are {', '.join(self.seen[column]) or 'no rows'}, for example."
            )


def drop_repeated(found: Sequence[Candidates]) -> None:
    """Of candidates with one prompt, in whatever source, keep the first."""
    prompts = np.concatenate([one.prompts for one in found])
    first = np.zeros(len(prompts), bool)
    first[np.unique(prompts, return_index=True)[1]] = True
    for one, which in zip(found, np.split(first, np.cumsum([len(one.prompts) for one in found])[:-1]), strict=True):
        one.keep(which)
