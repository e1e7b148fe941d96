"""Training a student on its own labels and on teachers' predictions of the same texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.objective import TERMS, Objective
from logitfusion.config.training import LoRA, Recipe
from logitfusion.distill.alignment import align, share, truncate
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.objective import CachedTeacher, DistillLoss, Teacher, distill_loss
from logitfusion.distill.shared import Vocabulary
from logitfusion.distill.sources import Source
from logitfusion.errors import UserError
from logitfusion.models.architecture import count_vocabulary
from logitfusion.training.batches import INPUTS, CompletionCollator, order_rows
from logitfusion.training.loop import StepTrainer, train, trainer_arguments
from logitfusion.training.padding import plan_padding
from logitfusion.training.weights import as_saved, prepare

logger = logging.getLogger(__name__)

PARTS = ("sft", *TERMS)
ALIGNMENTS = {"bytes": align, "positions": lambda student, teacher: truncate(len(student), len(teacher))}


def objective_loss(
    objective: Objective, logits: Tensor, labels: Tensor, teachers: list[Teacher | CachedTeacher], **counts: int | None
) -> DistillLoss:
    """``distill_loss`` with the factors and forms of an objective, and the ``tokens`` and ``texts`` of a step."""
    return distill_loss(
        logits,
        labels,
        teachers,
        k=objective.k,
        uld_k=objective.k,
        uld_weight=objective.uld,
        gld_weight=objective.gld,
        kl_weight=objective.kl,
        hybrid_weight=objective.hybrid,
        divergence=objective.divergence,
        temperature=objective.temperature,
        shared_weight=objective.shared_weight,
        normalisation=objective.normalisation,
        nodes=objective.nodes,
        signal=objective.signal,
        combine=objective.combine,
        **counts,
    )


def gradient_norms(
    objective: Objective, logits: Tensor, labels: Tensor, teachers: list[Teacher | CachedTeacher]
) -> str:
    """How hard each part pulls: the norms of its factor times its gradient with respect to the logits.

    How the paper splits lambda is not published, and the graph term's size depends on signal and k by orders of
    magnitude, so whoever chooses factors should see what they do.
    """
    norms = []
    factors = {name: getattr(objective, name) for name in TERMS}
    for name, factor in {"sft": 1 - objective.taught, **factors}.items():
        if factor:
            alone = {other: float(other == name) for other in factors}
            leaf = logits.detach().float().requires_grad_()
            objective_loss(objective.model_copy(update=alone), leaf, labels, teachers).total.backward()
            norms.append(f"{name.upper()} {factor * leaf.grad.norm():.2g}")
    return ", ".join(norms)


def distill(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[EncodedText],
    teachers: dict[str, Source],
    objective: Objective,
    recipe: Recipe,
    *,
    lora: LoRA | None,
    checkpoints: Path,
    fingerprint: str,
    name: str,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train the student and return it, adapters unmerged, with its loss curve (the total and its parts).

    Args:
        texts: in the student's tokens.
        teachers: name -> its predictions of these texts; none for plain fine-tuning.

    Raises:
        UserError: a teacher of other texts, or with too few entries a position; a k that the student can't fill.
    """
    if objective.k > count_vocabulary(student):
        raise UserError(f"k is {objective.k}, and the student {name} has {count_vocabulary(student)} tokens; lower k.")
    for teacher, source in teachers.items():
        source.check(teacher, objective, tokenizer)
        if objective.hybrid:
            source.share(teacher, Vocabulary.of(tokenizer, count_vocabulary(student), texts))
    rows = pair_texts(texts, teachers, objective.alignment)
    recipe, own = recipe.for_texts(len(rows)), student.dtype
    logger.info("%s: %d texts, %d steps of %d", name, len(rows), recipe.steps, recipe.batch_size)
    padding = plan_padding(student, tokenizer, rows, recipe, name)
    sources = list(teachers.values())
    trainer = DistillationTrainer(
        sources=sources,
        objective=objective,
        texts=recipe.batch_size,
        model=prepare(student, lora, recipe, name),
        args=trainer_arguments(padding.recipe, checkpoints),
        train_dataset=order_rows(rows, padding.recipe),
        data_collator=DistillationCollator(padding.pad, sources, padding.inputs),
    )
    trained, curve = train(trainer, name, recipe, checkpoints, fingerprint)
    return as_saved(trained, own, name), curve


def pair_texts(texts: Sequence[EncodedText], teachers: dict[str, Source], alignment: str) -> list[dict[str, Any]]:
    """A row for each text: its tokens, its number with each teacher, and the groups of positions that they share."""
    matched = [source.match(name, texts) for name, source in teachers.items()]
    rows = []
    for text, *numbers in zip(texts, *matched, strict=True):
        if not text.labels:  # a limit of tokens may leave none
            continue
        ends = [source.ends(number) for source, number in zip(teachers.values(), numbers, strict=True)]
        groups = [ALIGNMENTS[alignment](text.ends, others) for others in ends]
        row = {"input_ids": list(text.ids), "completion": len(text.ids) - text.start, "numbers": numbers}
        rows.append(row | {"groups": groups} | ({"learned": _learned(text)} if text.between else {}))
    for place, teacher in enumerate(teachers):
        shares = share([row["groups"][place] for row in rows], list(map(_count_labels, rows)))
        logger.info(
            "teacher %s: %.1f %% of the student's tokens meet one of its, %.1f %% are in merged groups, %.1f %% alone",
            teacher, *(100 * shares[part] for part in ("one_to_one", "merged", "dropped")),
        )  # fmt: skip
    return rows


def _learned(text: EncodedText) -> list[bool]:
    """Which of the tokens from the first response on are of one."""
    own = set(text.places)
    return [place in own for place in range(text.start, len(text.ids))]


def _count_labels(row: dict[str, Any]) -> int:
    return sum(row["learned"]) if "learned" in row else row["completion"]


class DistillationCollator(CompletionCollator):
    """With what each teacher reads of the texts."""

    def __init__(self, pad: int, sources: list[Source], inputs: Sequence[str] = INPUTS) -> None:
        super().__init__(pad, inputs)
        self.sources = sources

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        teachers = [self._of_teacher(place, rows) for place in range(len(self.sources))]
        return super().__call__(rows) | {"teachers": teachers}

    def _of_teacher(self, place: int, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        columns = self.sources[place].collate([row["numbers"][place] for row in rows])
        groups, starts = [], torch.zeros(2, dtype=torch.int64)
        for row, count in zip(rows, columns["counts"].tolist(), strict=True):
            groups.append(row["groups"][place] + starts.repeat_interleave(2))
            starts = starts + torch.tensor([_count_labels(row), count])
        return columns | {"groups": torch.cat(groups)}


class DistillationTrainer(StepTrainer):
    """The objective over the response positions, all of its parts divided by the numbers of the whole step."""

    def __init__(self, *, sources: list[Source], objective: Objective, texts: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sources, self.objective, self.texts = sources, objective, texts
        self.parts, self.steps, self.weighed = dict.fromkeys(PARTS, 0.0), set[int](), False

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        labels, columns = inputs.pop("labels"), inputs.pop("teachers")
        logits = self.last_logits(model, inputs, labels.shape[1])
        teachers = read_teachers(self.sources, columns, self.objective)
        tokens = int(num_items_in_batch) if num_items_in_batch is not None else None
        if teachers and not self.weighed:
            self.weighed = True
            norms = gradient_norms(self.objective, logits, labels, teachers)
            logger.info("gradient norms of the parts at the first logits: %s", norms)
        loss = objective_loss(self.objective, logits, labels, teachers, tokens=tokens, texts=self.texts)
        self.steps.add(self.state.global_step)
        processes = self.accelerator.num_processes
        for part in PARTS:
            self.parts[part] += processes * getattr(loss, part).item()
        return processes * loss.total  # gradients are averaged over processes, and this is a share of a sum

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss, means since the last line."""
        if "loss" in logs:
            logs |= {part: total / len(self.steps) for part, total in self.parts.items()}
            self.parts, self.steps = dict.fromkeys(PARTS, 0.0), set()
        super().log(logs, start_time)


def read_teachers(
    sources: Sequence[Source], columns: Sequence[dict[str, Tensor]], objective: Objective
) -> list[Teacher | CachedTeacher]:
    """The teachers of a batch, from what the collator made of each."""
    weights = objective.weights or (1.0,) * len(sources)
    return [
        source.read({name: value for name, value in own.items() if name != "groups"}, own["groups"], weight)
        for source, own, weight in zip(sources, columns, weights, strict=True)
    ]
