"""A Trainer of students: transformers' own, with the objective of distillation as its loss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.distill.arguments import DistillationConfig
from logitfusion.distill.objective import CachedTeacher, Teacher
from logitfusion.distill.rows import DistillationCollator
from logitfusion.distill.sources import Source
from logitfusion.distill.step import PARTS, gradient_norms, objective_loss, read_teachers
from logitfusion.training.loop import StepTrainer

logger = logging.getLogger(__name__)

Measure = Callable[[PreTrainedModel], Mapping[str, float]]


class DistillationTrainer(StepTrainer):
    """The objective over the response positions, all of its parts divided by the numbers of the whole optimiser step.

    So accumulation, several processes and a last, shorter batch give what one large batch gives.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: DistillationConfig,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teachers: Mapping[str, Source] | None = None,
        measure: Measure | None = None,
        data_collator: DistillationCollator | None = None,
        **others: Any,
    ) -> None:
        args._n_gpu = min(args.n_gpu, 1)  # a process that sees several GPUs would cut a batch among them
        super().__init__(
            model=model, args=args, processing_class=processing_class, data_collator=data_collator, **others
        )
        self.objective, self.sources, self.measure = args.objective, dict(teachers or {}), measure
        self.parts, self.steps, self.weighed = dict.fromkeys(PARTS, 0.0), set[int](), False

        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def get_batch_samples(
        self, epoch_iterator: Iterable[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and the numbers that all its parts are divided by, of all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = sum((_count(batch["labels"]) for batch in batches), torch.zeros(2, dtype=torch.int64, device=device))
        return batches, self.accelerator.reduce(counts)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        logits, labels, teachers = self._read(model, inputs)
        self.steps.add(self.state.global_step)
        if not _count(labels)[0]:  # blank rows alone
            return (logits * 0).sum()
        if teachers and not self.weighed:
            self.weighed = True
            norms = gradient_norms(self.objective, logits, labels, teachers)
            logger.info("gradient norms of the parts at the first logits: %s", norms)
        tokens, texts = num_items_in_batch.tolist()
        loss = objective_loss(self.objective, logits, labels, teachers, tokens=tokens, texts=texts)
        processes = self.accelerator.num_processes
        for part in PARTS:
            self.parts[part] += processes * getattr(loss, part).item()
        return processes * loss.total  # gradients are averaged over processes, and this is a share of a sum

    def _read(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, list[Teacher | CachedTeacher]]:
        """The student's logits of a batch, its labels, and what teachers predict."""
        labels, columns = inputs.pop("labels"), inputs.pop("teachers")
        logits = self.last_logits(model, inputs, labels.shape[1])
        return logits, labels, read_teachers(list(self.sources.values()), columns, self.objective) if columns else []

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss, means since the last line."""
        if "loss" in logs:
            logs |= {part: total / len(self.steps) for part, total in self.parts.items()}
            self.parts, self.steps = dict.fromkeys(PARTS, 0.0), set()
        super().log(logs, start_time)


def _count(labels: Tensor) -> Tensor:
    """How many labels count, and how many texts have one, ``[2]``; nothing predicts the first column."""
    counted = labels[:, 1:] != -100
    return torch.stack([counted.sum(), counted.any(1).sum()])
