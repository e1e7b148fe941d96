"""The batches of a training: rows in the order they are used, micro-batches of like length, padding on the left."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from logitfusion.config.training import Recipe
from logitfusion.errors import UserError
from logitfusion.models.padding import left_pad

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


def order_rows(rows: list[dict[str, Any]], recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of the whole training in the order they are used.

    Each micro-batch holds rows of similar length, because padding would be half of the work; the micro-batches of an
    optimiser step are drawn from all lengths, so that a step sees every task. Which rows are in a step does not depend
    on the number of processes, which part them anew.
    """
    if recipe.seed is None:
        raise ValueError("the order of rows needs a seed")
    if not rows:
        raise UserError("There is no text to train on: the tasks' training splits are empty.")
    micro = micro_batch(recipe, 1)
    needed = recipe.steps * (recipe.batch_size // micro)
    rng = random.Random(recipe.seed)
    batches: list[list[dict[str, Any]]] = []
    while len(batches) < needed:
        epoch = rng.sample(rows, len(rows))
        # A last, shorter batch is filled up from the start of the epoch.
        epoch += (epoch * micro)[: -len(epoch) % micro]
        epoch.sort(key=lambda row: len(row["input_ids"]))
        cut = [epoch[start : start + micro] for start in range(0, len(epoch), micro)]
        rng.shuffle(cut)
        batches += cut
    return [row for batch in batches[:needed] for row in batch]


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
