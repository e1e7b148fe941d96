"""How a model reads the rows of a training: in padded batches where that changes nothing, else one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.training import Recipe
from logitfusion.errors import UserError
from logitfusion.models.architecture import count_vocabulary, rope_limit
from logitfusion.models.forward import agree, check_texts, evaluating, plain_logits, probe, refuse_not_causal
from logitfusion.models.load import first_line
from logitfusion.training.batches import TextCollator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Padding:
    """What batches look like.

    Attributes:
        recipe: with micro-batches of one row where the model can't read padding.
        pad: a token to pad with; no text sees it.
        alone: whether the model can't read padding.
    """

    recipe: Recipe
    pad: int
    alone: bool = False


def plan_padding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Any]],
    recipe: Recipe,
    name: str,
) -> Padding:
    """Try a model on the start of the longest row, before the training ``name`` begins; all are read once.

    Raises:
        UserError: a row that is longer than the model reads or of tokens that it lacks, or a model that isn't causal or
            can't be trained on texts of any length.
    """
    longest = check_texts(model, (row["input_ids"] for row in rows), f"the model of {name}", "max_tokens")
    known = tokenizer.pad_token_id
    pad = known if known is not None and known < count_vocabulary(model) else 0  # any will do
    if len(longest) < 2:
        return Padding(recipe, pad)
    ids = probe(model, [longest])
    refuse_not_causal(model, f"The model of {name}")
    _check_trainable(model, ids, name)
    if len(longest) <= rope_limit(model) and _reads_padding(model, ids, pad):
        return Padding(recipe, pad)
    logger.info("%s: one row at a time is read, because %s can't read padding", name, type(model).__name__)
    return Padding(recipe.model_copy(update={"micro_batch": 1}), pad, alone=True)


def _check_trainable(model: PreTrainedModel, ids: list[int], name: str) -> None:
    """Refuse a model that reads some lengths only while it is trained (Reformer)."""
    with evaluating(model):
        try:
            plain_logits(model.train(), torch.tensor([ids[:-1]], device=model.device))
        except ValueError as error:
            raise UserError(
                f"{name}: {type(model).__name__} can't be trained on texts of any length ({first_line(error)}); train"
                " another model."
            ) from error


def _reads_padding(model: PreTrainedModel, ids: list[int], pad: int) -> bool:
    """Whether the logits of two rows of a padded batch are those of each row alone."""
    texts = [ids, ids[::-1][: (len(ids) + 1) // 2]]
    batch = TextCollator(pad)([{"input_ids": text} for text in texts])
    with evaluating(model):
        together = plain_logits(model, batch["input_ids"].to(model.device))
        return all(
            agree(row[: len(text)], plain_logits(model, torch.tensor([text], device=model.device))[0])
            for row, text in zip(together, texts, strict=True)
        )
