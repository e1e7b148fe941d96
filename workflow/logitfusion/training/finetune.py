"""Fine-tuning on prompts and completions or on chats, all weights or LoRA, loss on what is answered alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.prompting import TextFormat
from logitfusion.config.training import LoRA, Recipe
from logitfusion.models.examples import PLAIN, ExampleEncoder, read_example
from logitfusion.training.batches import IGNORED, KEPT, CompletionCollator
from logitfusion.training.loop import StepTrainer, train, trainer_arguments
from logitfusion.training.packing import make_batches
from logitfusion.training.padding import plan_padding
from logitfusion.training.weights import as_saved, prepare

logger = logging.getLogger(__name__)


def encode_examples(
    examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_tokens: int, form: TextFormat = PLAIN
) -> list[dict[str, Any]]:
    """``input_ids`` of each example, how many its ``completion`` has, and which of these are ``learned`` if not all.

    Prompt and completion are encoded separately, as they are at decoding time, so the boundary is the same: see
    ``TextEncoder``. The text of a special token in a completion is ordinary text, in a prompt it is the token. Of a
    chat the completion is all from the assistant's first answer to the end of its last one; only its own tokens and
    what closes them are learned. An example that is too long loses its beginning.

    Raises:
        UserError: the tokenizer has no end-of-text token, or an example can't be written in this form.
    """
    encoded = []
    for turns in ExampleEncoder(tokenizer, form).turns(map(read_example, examples)):
        ids = [token for turn in turns for token in turn.ids][-max_tokens:]
        learned = [value for turn in turns for value in turn.learned][-max_tokens:]
        first = next(place for place in range(1, len(ids)) if learned[place])  # nothing predicts the first token
        row = {"input_ids": ids, "completion": len(ids) - first}
        encoded.append(row if all(learned[first:]) else row | {"learned": learned[first:]})
    return encoded


class CompletionTrainer(StepTrainer):
    """Cross-entropy of the completion tokens; the vocabulary-sized product is made at their positions only."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        labels = inputs.pop("labels")[:, 1:]
        learned = labels != IGNORED
        inputs[KEPT] = inputs[KEPT][:, :-1][learned]
        logits = self.kept_logits(model, inputs).float()
        total = nn.functional.cross_entropy(logits, labels[learned], reduction="sum")
        tokens = num_items_in_batch if num_items_in_batch is not None else learned.sum()
        return self.accelerator.num_processes * total / tokens  # gradients are averaged over processes


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[dict[str, Any]],
    recipe: Recipe,
    *,
    lora: LoRA | None,
    checkpoints: Path,
    fingerprint: str,
    name: str,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train on ``examples`` (``prompt`` and ``completion``, or ``messages``).

    Returns:
        the model, adapters unmerged, and its losses.
    """
    rows = encode_examples(examples, tokenizer, recipe.max_tokens, recipe.part(TextFormat))
    recipe, own = recipe.for_texts(len(rows)), model.dtype
    padding = plan_padding(model, tokenizer, rows, recipe, name)
    collator = CompletionCollator(padding.pad)
    batches = make_batches(model, rows, recipe, padding, collator, name)
    logger.info("%s: %d examples, %d steps", name, len(examples), recipe.steps)
    trainer = CompletionTrainer(
        model=prepare(model, lora, recipe, name),
        args=trainer_arguments(batches.recipe, checkpoints),
        train_dataset=batches.rows,
        data_collator=batches.collator,
    )
    trained, curve = train(trainer, name, recipe, checkpoints, fingerprint)
    return as_saved(trained, own, name), curve
