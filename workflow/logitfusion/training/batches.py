"""The batches of a training: rows in the order they are used, micro-batches of like length, padded behind texts."""

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
from torch.nn.utils.rnn import pad_sequence

from logitfusion.config.training import Recipe
from logitfusion.errors import UserError

Row = dict[str, Any]
KEPT = "kept"  # places in a batch, row by row, that count: whose hidden states or logits are made
IGNORED = -100  # a label of nothing


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
    """Token lists as ``input_ids`` ``[B, L]``, padded behind their ends, and the places of all their tokens (``KEPT``).

    No causal model looks behind a text's end, so none needs a mask. Padding in front would see nothing at all, which
    fused kernels of attention may answer with NaN.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [torch.as_tensor(row["input_ids"]) for row in rows]
        ids = pad_sequence(texts, batch_first=True, padding_value=self.pad)
        real = torch.arange(ids.shape[1]) < torch.tensor([[len(text)] for text in texts])
        return {"input_ids": ids, KEPT: real.flatten().nonzero().squeeze(1)}


class CompletionCollator(TextCollator):
    """With ``labels`` ``[B, columns]`` of the last tokens of each text, whose places alone are kept.

    Inside of a completion, tokens that a row says are not ``learned`` (what others say between the answers of a chat)
    have none.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = super().__call__(rows)["input_ids"]
        # One column more than the longest completion: the Trainer counts labels from the second column on.
        columns = max(row["completion"] for row in rows) + 1
        labels = torch.full((len(rows), columns), IGNORED)
        for own, row in zip(labels, rows, strict=True):
            completion = torch.as_tensor(row["input_ids"][-row["completion"] :])
            learned = torch.tensor(row.get("learned", [True] * len(completion)))
            own[-len(completion) :] = completion.where(learned, IGNORED)
        sizes = torch.tensor([len(row["input_ids"]) for row in rows])
        return {"input_ids": ids, KEPT: last_places(torch.arange(len(rows)) * ids.shape[1], sizes, columns),
                "labels": labels}  # fmt: skip


def last_places(starts: Tensor, sizes: Tensor, columns: int) -> Tensor:
    """``[B, columns]``: where the last tokens of texts are that start at ``[B]``; of shorter ones the first."""
    return ((starts + sizes)[:, None] + torch.arange(-columns, 0)).maximum(starts[:, None])
