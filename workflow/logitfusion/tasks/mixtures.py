"""Mixtures of texts: which rows of which source, by shares and a seed; written in a mixed order.

Sources are read twice, a batch at a time: for the prompts, of which digests are kept, and for the rows that were drawn.
So memory does not grow with the texts, and by some bytes with each row.
"""

from __future__ import annotations

import json
import logging
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from logitfusion.config.texts import TextTask
from logitfusion.errors import UserError
from logitfusion.files import whole
from logitfusion.progress.pace import Rate
from logitfusion.tasks.candidates import Candidates, Numbers, drop_repeated, survey
from logitfusion.tasks.streaming import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """Numbers of the rows that were drawn from a source, in the source's order."""

    train: Numbers
    validation: Numbers


def write_mixture(
    task: TextTask, sources: Sequence[Source], train: Path, validation: Path, *, name: str = "task"
) -> list[dict[str, Any]]:
    """Draw the texts of a task and write them.

    Args:
        sources: of the task's texts, in their order.
        train, validation: files of JSON lines, ``id`` and ``messages``, or ``id``, ``prompt`` and ``completion``; an id
            is the place of the source in the task, from 1 on, and the row's number there, from 0 on: ``2:17``.

    Returns:
        What became of each source's rows.

    Raises:
        UserError: sources that can't be read, or too few texts in one.
    """
    found = [survey(source) for source in sources]
    if task.distinct:
        drop_repeated(found)
    for source, one in zip(sources, found, strict=True):
        for reason, count in one.left_out.most_common():
            logger.info("%s: %d rows left out: %s", source.title, count, reason)
    drawn = draw(task, sources, found, name)
    rate = Rate(name, "texts", task.train + task.validation)
    for path, split in ((validation, "validation"), (train, "train")):
        texts = (
            {"id": f"{place}:{number}", **source.formatter(row)}
            for place, (source, one, chosen) in enumerate(zip(sources, found, drawn, strict=True), start=1)
            if len(getattr(chosen, split))
            for number, row in source.stream(_mark(getattr(chosen, split), one.end))
        )
        _write_mixed(path, texts, random.Random(f"{task.seed}/{split}"), rate)
    return [
        {
            **source.describe(),
            "rows": one.rows,
            "texts": len(one.numbers),
            "left_out": dict(one.left_out.most_common()),
            "train": len(chosen.train),
            "validation": len(chosen.validation),
        }
        for source, one, chosen in zip(sources, found, drawn, strict=True)
    ]


def draw(task: TextTask, sources: Sequence[Source], found: Sequence[Candidates], name: str = "task") -> list[Draw]:
    """Draw the texts of both splits; those of validation do not move when there are more to train on.

    Raises:
        UserError: a source has too few.
    """
    shares = [source.share or len(one.numbers) for source, one in zip(task.texts, found, strict=True)]
    sizes = list(zip(apportion(task.validation, shares), apportion(task.train, shares), strict=True))
    orders = [_shuffle(len(one.numbers), f"{task.seed}/{place}") for place, one in enumerate(found)]
    held = [order[:count] for order, (count, _) in zip(orders, sizes, strict=True)]
    kept_back = np.concatenate([one.prompts[chosen] for one, chosen in zip(found, held, strict=True)])
    drawn = []
    for source, one, order, (validation, train) in zip(sources, found, orders, sizes, strict=True):
        rest = order[validation:]
        rest = rest[~np.isin(one.prompts[rest], kept_back)]
        if len(order) < validation or len(rest) < train:
            raise UserError(
                f"Task {name!r} asks for {train + validation} texts of {source.title}, which has"
                f" {min(len(order), validation) + len(rest)} in {one.rows} rows; lower train, or its share."
            )
        drawn.append(Draw(np.sort(one.numbers[rest[:train]]), np.sort(one.numbers[order[:validation]])))
    return drawn


def _shuffle(count: int, seed: str) -> Numbers:
    order = list(range(count))
    random.Random(seed).shuffle(order)  # not NumPy's, whose versions may differ
    return np.array(order, np.int64)


def apportion(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to ``count`` and are nearest to the shares: the largest remainders are rounded up."""
    exact = [count * share / sum(shares) for share in shares]
    sizes = [int(size + 1e-9) for size in exact]
    by_remainder = sorted(range(len(shares)), key=lambda place: sizes[place] - exact[place])
    for place in by_remainder[: count - sum(sizes)]:
        sizes[place] += 1
    return sizes


def _mark(numbers: Numbers, end: int) -> np.ndarray:
    marks = np.zeros(end, bool)
    marks[numbers] = True
    return marks


def _write_mixed(path: Path, texts: Iterator[dict[str, Any]], rng: random.Random, rate: Rate) -> None:
    """Write texts in a random order, without holding them: their lines are on the disk first, then looked up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as pool:
        starts = []
        for text in texts:
            starts.append(pool.tell())
            pool.write(json.dumps(text, ensure_ascii=False).encode() + b"\n")
            rate(1)
        rng.shuffle(starts)
        with whole(path) as temporary, temporary.open("wb") as file:
            for start in starts:
                pool.seek(start)
                file.write(pool.readline())
