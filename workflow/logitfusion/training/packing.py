"""Texts of a step joined in one row, without padding, none of which sees another.

Nothing tells a model of the joints but positions that begin anew: transformers makes the mask of attention from them
(or FlashAttention's lengths). Which texts are in a step stays the same, and so do loss and gradient, but for rounding.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.config.training import Recipe
from logitfusion.errors import find_memory_error
from logitfusion.models.architecture import count_vocabulary, reset_rope, rope_limit
from logitfusion.models.forward import agree, evaluating, plain_logits, probe
from logitfusion.training.batches import KEPT, OrderedRows, Row, last_places, order_rows, processes
from logitfusion.training.kept import kept_logits
from logitfusion.training.padding import Padding

logger = logging.getLogger(__name__)

Collator = Callable[[list[Any]], dict[str, Any]]
# Two passes of one form round alike, but for the experts that a mixture's router chooses.
_HALF = 0.02
_COMPARED = 16  # tokens


@dataclass(frozen=True)
class Batches:
    """What a training reads, in its order.

    Attributes:
        rows: texts, or lists of texts that are joined.
        recipe: whose ``batch_size`` and ``micro_batch`` count these rows.
        collator: of them.
    """

    rows: Sequence[Any]
    recipe: Recipe
    collator: Collator


def make_batches(
    model: PreTrainedModel, rows: Sequence[Row], recipe: Recipe, padding: Padding, collator: Collator, name: str
) -> Batches:
    """The batches of the training ``name``: joined where the recipe says so and the model can, else padded or alone.

    Args:
        rows: the texts.
        recipe: with the number of its steps.
        padding: how the model reads texts that are not joined.
        collator: of those.
    """
    if recipe.packing is not None:
        joined = JoinedRows(order_rows(rows, recipe), recipe)
        if _reads_joined(model, joined.ordered.sizes.tokens, joined.largest):
            counts = {"batch_size": joined.of_step, "micro_batch": 1}
            logger.info("%s: the %d texts of a step are packed in %d rows", name, recipe.batch_size, joined.of_step)
            return Batches(joined, recipe.model_copy(update=counts), JoiningCollator(collator))
        logger.info("%s: texts are not packed, because %s can't tell them apart in a row", name, type(model).__name__)
    return Batches(order_rows(rows, padding.recipe), padding.recipe, collator)


class JoinedRows(Sequence[list[Row]]):
    """Texts in the order they are used, each step's in as many rows, which have about as many tokens.

    Texts whose completions have like lengths come together, as these are padded where logits are made.

    Attributes:
        ordered: the texts of all steps.
        of_step: rows of a step, a multiple of the number of processes.
    """

    def __init__(self, ordered: OrderedRows, recipe: Recipe) -> None:
        """No row has more than ``recipe.packing`` tokens, but a text that does alone."""
        self.ordered, self.texts, self.most = ordered, recipe.batch_size, recipe.packing
        self._parts = lru_cache(maxsize=2)(self._part)
        steps = range(len(ordered) // self.texts)
        needed = max((len(_fill(self._sorted(step)[1], self.most)) for step in steps), default=1)
        self.of_step = -(-needed // processes()) * processes()

    def __len__(self) -> int:
        return len(self.ordered) // self.texts * self.of_step

    def __getitem__(self, place: int) -> list[Row]:
        if not 0 <= place < len(self):
            raise IndexError(place)
        step, part = divmod(place, self.of_step)
        return [self.ordered[text] for text in self._parts(step)[part]]

    @property
    def largest(self) -> list[Row]:
        """The longest row of the step that has most tokens."""
        step = int(self.ordered.sizes.tokens.reshape(-1, self.texts).sum(1).argmax())
        return max((self[step * self.of_step + part] for part in range(self.of_step)), key=_count_tokens)

    def _sorted(self, step: int) -> tuple[NDArray[np.int64], list[int]]:
        """The places of a step's texts, by the lengths of their completions, and their tokens."""
        places = np.arange(step * self.texts, (step + 1) * self.texts)
        places = places[self.ordered.sizes.completions[places].argsort(kind="stable")]
        return places, self.ordered.sizes.tokens[places].tolist()

    def _part(self, step: int) -> list[NDArray[np.int64]]:
        places, tokens = self._sorted(step)
        return np.split(places, _cut(tokens, self.of_step, self.most))


def _count_tokens(texts: list[Row]) -> int:
    return sum(len(text["input_ids"]) for text in texts)


def _fill(tokens: list[int], most: int) -> list[int]:
    """Where the rows begin that take texts one after the other, up to ``most`` tokens; a longer text is alone."""
    starts, count = [0], 0
    for place, size in enumerate(tokens):
        if place > starts[-1] and count + size > most:
            starts.append(place)
            count = 0
        count += size
    return starts


def _cut(tokens: list[int], rows: int, most: int) -> list[int]:
    """Where all rows but the first begin, if the longest is to be as short as it can be, ``most`` tokens at most."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_fill(tokens, middle)) <= rows else (middle + 1, high)
    starts = _fill(tokens, low)
    while len(starts) < rows:  # fewer would do, and every process has as many
        ends = [*starts[1:], len(tokens)]
        first, last = max(zip(starts, ends, strict=True), key=lambda part: part[1] - part[0])
        starts = sorted([*starts, (first + last) // 2])
    return starts[1:]


class JoiningCollator:
    """What another collator makes of texts, which are read in one row.

    In place of padded tokens there are ``input_ids`` and ``position_ids`` ``[1, tokens]``, and ``KEPT`` has places in
    this row. Texts that are given one by one (those of an evaluation) are left to the other collator.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, rows: list[list[Row]] | list[Row]) -> dict[str, Any]:
        if not isinstance(rows[0], list):
            return self.collator(rows)
        texts = [text for row in rows for text in row]
        batch = self.collator(texts)
        columns = batch["labels"].shape[1] if "labels" in batch else None
        return batch | join([text["input_ids"] for text in texts], columns)


def join(texts: Sequence[Sequence[int]], columns: int | None) -> dict[str, Tensor]:
    """Token lists as one row, and the places of the last ``columns`` tokens of each, or of all tokens."""
    sizes = torch.tensor([len(text) for text in texts])
    starts = sizes.cumsum(0) - sizes
    return {
        "input_ids": torch.cat([torch.as_tensor(text) for text in texts])[None],
        "position_ids": torch.cat([torch.arange(size) for size in sizes.tolist()])[None],
        KEPT: torch.arange(int(sizes.sum())) if columns is None else last_places(starts, sizes, columns),
    }


def _reads_joined(model: PreTrainedModel, tokens: NDArray[np.int64], longest: list[Row]) -> bool:
    """Whether a model tells texts of a row apart by their positions: tried on two short ones, and on the longest row.

    Args:
        tokens: of all texts.
        longest: the texts of the longest row.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters or tokens.max() > rope_limit(model):
        return False
    texts = [list(text["input_ids"]) for text in longest]
    start = probe(model, texts)
    try:
        with evaluating(model):
            return all(_keeps_apart(model, some) for some in ([start, start[::-1]], texts))
    except Exception as error:  # whatever an architecture raises that makes tables of fixed lengths
        if find_memory_error(error) is not None:
            raise
        return False


def _keeps_apart(model: PreTrainedModel, texts: list[list[int]]) -> bool:
    """Whether the last of some texts is read as it is alone, whatever the others are."""
    *others, last = texts
    other = [[(token + 1) % count_vocabulary(model) for token in text] for text in others]
    reset_rope(model)
    columns = min(_COMPARED, len(last))
    found, moved = (
        kept_logits(model, model, {name: value.to(model.device) for name, value in joined.items()})[-1]
        for joined in (join([*some, last], columns) for some in (others, other))
    )
    alone = plain_logits(model, torch.tensor([last], device=model.device))[0, -columns:]
    return agree(found, alone) and agree(moved, found, half=_HALF)
