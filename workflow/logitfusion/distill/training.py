"""Training a student on its own labels and on teachers' predictions of the same texts, read from their caches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.objective import Objective
from logitfusion.config.training import LoRA, Recipe
from logitfusion.distill.alignment import align, share, truncate
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import UNKNOWN_TEXT, EncodedText
from logitfusion.distill.objective import CachedTeacher, DistillLoss, distill_loss
from logitfusion.distill.predictions import Predictions
from logitfusion.errors import UserError
from logitfusion.models.architecture import count_vocabulary
from logitfusion.models.identity import hash_vocabulary
from logitfusion.training.batches import INPUTS, CompletionCollator
from logitfusion.training.loop import StepTrainer, train, trainer_arguments
from logitfusion.training.packing import make_batches
from logitfusion.training.padding import plan_padding
from logitfusion.training.weights import as_saved, prepare

logger = logging.getLogger(__name__)

PARTS = ("sft", "uld", "gld", "kl")
ALIGNMENTS = {"bytes": align, "positions": lambda student, teacher: truncate(len(student), len(teacher))}


def objective_loss(
    objective: Objective, logits: Tensor, labels: Tensor, teachers: list[CachedTeacher], **counts: int | None
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
        divergence=objective.divergence,
        temperature=objective.temperature,
        nodes=objective.nodes,
        signal=objective.signal,
        combine=objective.combine,
        **counts,
    )


def gradient_norms(objective: Objective, logits: Tensor, labels: Tensor, teachers: list[CachedTeacher]) -> str:
    """How hard each part pulls: the norms of its factor times its gradient with respect to the logits.

    How the paper splits lambda is not published, and the graph term's size depends on signal and k by orders of
    magnitude, so whoever chooses factors should see what they do.
    """
    norms = []
    factors = {name: getattr(objective, name) for name in PARTS[1:]}
    for name, factor in {"sft": 1 - sum(factors.values()), **factors}.items():
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
    teachers: dict[str, TeacherCache],
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
        texts: in the student's tokens, in the order of the caches.
        teachers: name -> its cache of the same texts; none for plain fine-tuning.

    Raises:
        UserError: a cache of other texts, or with too few entries a position; a k that the student can't fill.
    """
    if objective.k > count_vocabulary(student):
        raise UserError(f"k is {objective.k}, and the student {name} has {count_vocabulary(student)} tokens; lower k.")
    for teacher, cache in teachers.items():
        check_cache(teacher, cache, texts, objective.k)
        if objective.kl:
            check_vocabulary(teacher, cache, tokenizer)
    rows = pair_texts(texts, teachers, objective.alignment)
    recipe, own = recipe.for_texts(len(rows)), student.dtype
    logger.info("%s: %d texts, %d steps of %d", name, len(rows), recipe.steps, recipe.batch_size)
    padding = plan_padding(student, tokenizer, rows, recipe, name)
    collator = DistillationCollator(padding.pad, list(teachers.values()), padding.inputs)
    batches = make_batches(student, rows, recipe, padding, collator, name)
    trainer = DistillationTrainer(
        objective=objective,
        texts=recipe.batch_size,
        model=prepare(student, lora, recipe, name),
        args=trainer_arguments(batches.recipe, checkpoints),
        train_dataset=batches.rows,
        data_collator=batches.collator,
    )
    trained, curve = train(trainer, name, recipe, checkpoints, fingerprint)
    return as_saved(trained, own, name), curve


def check_cache(teacher: str, cache: TeacherCache, texts: Sequence[EncodedText], k: int) -> None:
    """Refuse a cache of other texts than the student's, or of another order, or with too few entries a position.

    Raises:
        UserError: names the teacher and the first text that differs.
    """
    if len(cache) != len(texts):
        raise UserError(
            f"The cache of teacher {teacher!r} holds {len(cache)} texts and the student reads {len(texts)};"
            " make it anew."
        )
    for number, (found, text) in enumerate(zip(cache.digests, texts, strict=True), 1):
        if found != text.digest:
            raise UserError(
                f"Text {number} in the cache of teacher {teacher!r} is not the student's text {number}; make the cache"
                " of the same texts in the same order."
            )
    if UNKNOWN_TEXT in cache.digests:
        logger.warning("teacher %s: texts have no digest in its cache, and may be others than the student's", teacher)
    if cache.k < k:
        raise UserError(f"The cache of teacher {teacher!r} holds the top {cache.k}, not {k}; raise cache.k.")


def check_vocabulary(teacher: str, cache: TeacherCache, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a teacher whose tokens are not the student's, by number: for those there are ULD and GLD.

    Raises:
        UserError: names the teacher.
    """
    if cache.settings["vocabulary_hash"] != hash_vocabulary(tokenizer):
        raise UserError(
            f"Teacher {teacher!r} has another vocabulary than the student, and the term kl compares token by token;"
            " give another teacher, or uld or gld in its place."
        )


def pair_texts(texts: Sequence[EncodedText], teachers: dict[str, TeacherCache], alignment: str) -> list[dict[str, Any]]:
    """A row for each text: its tokens, and the groups of positions that it and each teacher share."""
    rows = []
    for number, text in enumerate(texts):
        if not text.labels:  # a limit of tokens may leave none
            continue
        groups = [ALIGNMENTS[alignment](text.ends, cache[number].ends.tolist()) for cache in teachers.values()]
        row = {"input_ids": list(text.ids), "completion": len(text.ids) - text.start, "text": number, "groups": groups}
        rows.append(row | ({"learned": _learned(text)} if text.between else {}))
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
    """With each teacher's predictions of the completions."""

    def __init__(self, pad: int, caches: list[TeacherCache], inputs: Sequence[str] = INPUTS) -> None:
        super().__init__(pad, inputs)
        self.caches = caches

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__(rows) | {
            "teachers": [self._of_teacher(place, rows) for place in range(len(self.caches))]
        }

    def _of_teacher(self, place: int, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [self.caches[place][row["text"]] for row in rows]
        groups, starts = [], torch.zeros(2, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            groups.append(row["groups"][place] + starts.repeat_interleave(2))
            starts = starts + torch.tensor([_count_labels(row), len(text.label_log_probs)])
        return {
            "log_probs": torch.cat([text.log_probs for text in texts]),
            "ids": torch.cat([text.ids for text in texts]),
            "label_log_probs": torch.cat([text.label_log_probs for text in texts]),
            "tail": torch.cat([text.tail for text in texts]),
            "counts": torch.tensor([len(text.label_log_probs) for text in texts]),
            "groups": torch.cat(groups),
        }


class DistillationTrainer(StepTrainer):
    """The objective over the response positions, all of its parts divided by the numbers of the whole step."""

    def __init__(self, *, objective: Objective, texts: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.objective, self.texts = objective, texts
        self.parts, self.steps, self.weighed = dict.fromkeys(PARTS, 0.0), set[int](), False

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        labels, cached = inputs.pop("labels"), inputs.pop("teachers")
        logits = self.last_logits(model, inputs, labels.shape[1])
        weights = self.objective.weights or (1.0,) * len(cached)
        teachers = [_cached_teacher(one, weight) for one, weight in zip(cached, weights, strict=True)]
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


def _cached_teacher(columns: dict[str, Tensor], weight: float) -> CachedTeacher:
    columns = dict(columns)
    groups, tail = columns.pop("groups"), columns.pop("tail")
    return CachedTeacher(Predictions(**columns), groups, weight, tail)
