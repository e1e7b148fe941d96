"""The batches of a training: rows in the order they are used, micro-batches of like length, padding on the left."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitfusion.config.training import Recipe
from logitfusion.errors import UserError
from logitfusion.models.padding import left_pad

Row = dict[str, Any]
# What a model may be told of padding.
INPUTS = ("attention_mask", "position_ids")


def processes() -> int:
    """How many processes train together (torchrun and accelerate say so)."""
    return int(os.environ.get("WORLD_SIZE", 1))


def process() -> int:
    """The number of this process among them, from 0 on."""
    return int(os.environ.get("RANK", 0))


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    return process() == 0


def micro_batch(recipe: Recipe, count: int) -> int:
    """The largest divisor of a process's part of the batch that is at most the recipe's ``micro_batch``.

    Args:
        count: of processes.

    Raises:
        UserError: the batch can't be parted equally.
    """
    part, left = divmod(recipe.batch_size, count)
    if left:
        raise UserError(
            f"A batch_size of {recipe.batch_size} can't be parted among {count} processes; make it a multiple."
        )
    return max(size for size in range(1, min(recipe.micro_batch, part) + 1) if part % size == 0)


class Sizes(NamedTuple):
    """Of rows, ``[N]``.

    Attributes:
        tokens: all of each.
        completions: those at its end that are learned.
    """

    tokens: NDArray[np.int64]
    completions: NDArray[np.int64]


def size_rows(rows: Sequence[Row]) -> Sizes:
    """The sizes of rows, which those that are kept elsewhere know themselves (``sizes``)."""
    known = getattr(rows, "sizes", None)
    if known is not None:
        return known
    tokens = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
    return Sizes(tokens, np.array([row.get("completion", 0) for row in rows], dtype=np.int64))


class OrderedRows(Sequence[Row]):
    """Texts in the order they are used, one by one and again and again.

    Attributes:
        sizes: of them, in this order.
    """

    def __init__(self, rows: Sequence[Row], order: NDArray[np.int64], sizes: Sizes) -> None:
        self.rows, self.order = rows, order
        self.sizes = Sizes(*(part[order] for part in sizes))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Row:
        return self.rows[int(self.order[place])]


def order_rows(rows: Sequence[Row], recipe: Recipe) -> OrderedRows:
    """The rows of the whole training in the order they are used.

    Each micro-batch holds rows of similar length, because padding would be half of the work; the micro-batches of an
    optimiser step are drawn from all lengths, so that a step sees every task. Which rows are in a step does not depend
    on the number of processes, which part them anew.
    """
    if recipe.seed is None:
        raise ValueError("the order of rows needs a seed")
    if not len(rows):
        raise UserError("There is no text to train on: the tasks' training splits are empty.")
    sizes = size_rows(rows)
    micro = micro_batch(recipe, 1)
    needed = recipe.steps * (recipe.batch_size // micro)
    rng, lengths = random.Random(recipe.seed), sizes.tokens.tolist()
    batches: list[NDArray[np.int64]] = []
    while sum(map(len, batches)) < needed:
        epoch = rng.sample(range(len(rows)), len(rows))
        # A last, shorter batch is filled up from the start of the epoch.
        epoch += list(islice(cycle(epoch), -len(epoch) % micro))
        epoch.sort(key=lengths.__getitem__)
        cut = [epoch[start : start + micro] for start in range(0, len(epoch), micro)]
        rng.shuffle(cut)
        batches.append(np.array(cut, dtype=np.int64))
    return OrderedRows(rows, np.concatenate(batches)[:needed].reshape(-1), sizes)


class TextCollator:
    """Left-padded batches of token lists."""

    def __init__(self, pad: int, inputs: Sequence[str] = INPUTS) -> None:
        """``inputs`` are the ``INPUTS`` that the model is given beside its tokens."""
        self.pad, self.inputs = pad, inputs

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids, *others = left_pad([row["input_ids"] for row in rows], self.pad)
        made = dict(zip(INPUTS, others, strict=True))
        return {"input_ids": ids} | {name: made[name] for name in self.inputs}


class CompletionCollator(TextCollator):
    """With labels for the completions, which all end together, so that only the last columns need logits.

    Inside of one, tokens that a row says are not ``learned`` (what others say between the answers of a chat) have none.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = super().__call__(rows)
        # One column more than the longest completion: the Trainer counts labels from the second column on.
        keep = max(row["completion"] for row in rows) + 1
        labels = batch["input_ids"][:, -keep:].clone()
        for number, row in enumerate(rows):
            labels[number, : keep - row["completion"]] = -100
            if "learned" in row:
                labels[number, keep - row["completion"] :][~torch.tensor(row["learned"])] = -100
        return batch | {"labels": labels}
