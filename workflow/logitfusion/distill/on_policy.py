"""Answers of the student's own in place of the texts', for teachers to judge (GKD, Agarwal et al. 2024).

The paper (arXiv 2306.13649) draws for each batch whether it is of the data or of the student; the student learns no
labels of its own making, and no gradient flows through the drawing. Here a whole optimiser step is of one kind. An
answer is handed on as text, so that teachers may have any vocabulary, and it is encoded as the texts of the data are,
by the student's own tokenizer, too: where that cuts it otherwise than it was drawn, those tokens are read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from logitfusion.config.objective import Objective
from logitfusion.distill.encoding import EncodedText, encode_answer
from logitfusion.distill.predictions import IGNORED
from logitfusion.distill.rows import ALIGNMENTS, DistillationCollator
from logitfusion.distill.sources import OnlineSource
from logitfusion.errors import UserError
from logitfusion.models.architecture import context_length, reads_rows_alone
from logitfusion.models.examples import ExampleEncoder
from logitfusion.models.forward import evaluating
from logitfusion.models.padding import left_pad
from logitfusion.training.batches import KEPT

PACKED = "Texts that are packed in rows can't be answered; leave packing out, or on_policy at 0."


class OwnAnswers:
    """Rewrites batches of a training.

    Args:
        objective: of the training.
        encoder: of the student, in the form of its texts.
        collator: of the training; its sources read online.
        seed: of the draws, which depend on step and place alone, so that a training that resumes repeats them.
    """

    def __init__(
        self, objective: Objective, encoder: ExampleEncoder, collator: DistillationCollator, seed: int
    ) -> None:
        self.objective, self.encoder, self.collator, self.seed = objective, encoder, collator, seed
        self.sources: list[OnlineSource] = collator.sources

    def drawn(self, step: int) -> bool:
        """Whether a step is of the student's own answers; the same in all processes."""
        return random.Random(f"{self.seed} {step}").random() < self.objective.on_policy

    def write(self, model: PreTrainedModel, batch: dict[str, Any], place: tuple[int, ...]) -> dict[str, Any]:
        """A batch of the same prompts with the student's answers; a row without labels stays without.

        Args:
            model: the student.
            batch: of the collator.
            place: numbers that tell it apart: of the step, the process, the micro-batch.

        Raises:
            UserError: several texts are packed in a row.
        """
        if any(len(columns["counts"]) != len(batch["input_ids"]) for columns in batch["teachers"]):
            raise UserError(PACKED)
        prompts, learned = _prompts(batch), (batch["labels"] != IGNORED).any(1).tolist()
        texts = []
        with evaluating(model), _seeded(hash((self.seed, *place)) % 2**63):
            answers = self._answer(model, prompts)
        for prompt, (answer, closed) in zip(prompts, answers, strict=True):
            limit = _limit(model)
            texts.append(encode_answer(self.encoder, prompt, answer, closed=closed, max_tokens=limit))
        theirs = [
            [
                encode_answer(source.encoder, prompt, answer, closed=closed, max_tokens=_limit(source.model))
                for prompt, (answer, closed) in zip(_teacher_prompts(columns), answers, strict=True)
            ]
            for source, columns in zip(self.sources, batch["teachers"], strict=True)
        ]
        rows = [self._row(text, others, keep) for text, *others, keep in zip(texts, *theirs, learned, strict=True)]
        laid = [source.lay(some) for source, some in zip(self.sources, theirs, strict=True)]
        return self.collator.assemble(rows, laid)

    def _row(self, text: EncodedText, others: Sequence[EncodedText], learned: bool) -> dict[str, Any]:
        groups = [ALIGNMENTS[self.objective.alignment](text.ends, other.ends) for other in others]
        ids, completion = list(text.ids), len(text.labels)
        if learned and completion:
            return {"input_ids": ids, "completion": completion, "groups": groups}
        blank = {"learned": [False] * max(1, completion), "groups": [some[:0] for some in groups]}
        return {"input_ids": ids, "completion": max(1, completion), **blank}

    def _answer(self, model: PreTrainedModel, prompts: list[list[int]]) -> list[tuple[str, bool]]:
        """The text of each answer, and whether it came to its end."""
        closing, tokenizer = self.encoder.closing, self.encoder.encoder.tokenizer
        longest = max(map(len, prompts))
        room = _limit(model) or longest + self.objective.new_tokens
        config = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=closing, pad_token_id=closing,
            max_new_tokens=max(1, min(self.objective.new_tokens, room - longest)),
        )  # fmt: skip
        alone = reads_rows_alone(model, longest + self.objective.new_tokens)
        # A model's own file may set penalties or cuts, which would be merged into ours.
        kept, model.generation_config = model.generation_config, config
        try:
            parts = [[prompt] for prompt in prompts] if alone else [prompts]
            written = [row for part in parts for row in self._generate(model, part, config, masked=not alone)]
        finally:
            model.generation_config = kept
        return [_read(tokenizer, prompt, row, closing) for prompt, row in zip(prompts, written, strict=True)]

    def _generate(
        self, model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, *, masked: bool
    ) -> list[list[int]]:
        """New tokens of each prompt; they all end together, so padding is in front."""
        ids, mask, _ = (part.to(model.device) for part in left_pad(prompts, self.collator.pad))
        inputs = {"attention_mask": mask} if masked else {}
        return model.generate(input_ids=ids, generation_config=config, **inputs)[:, ids.shape[1] :].tolist()


def _read(tokenizer: Any, prompt: list[int], written: list[int], closing: int) -> tuple[str, bool]:
    """The text behind a prompt's, without what closes it and without a character that was not finished."""
    closed = closing in written
    written = written[: written.index(closing)] if closed else written
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, whole = tokenizer.decode(prompt, **options), tokenizer.decode([*prompt, *written], **options)
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(written, **options)
    return (text if closed else text.rstrip("\ufffd")), closed


def _limit(model: PreTrainedModel) -> int | None:
    """The longest text that a model reads, if there is one."""
    found = context_length(model)
    return int(found) if found < float("inf") else None


def _prompts(batch: dict[str, Any]) -> list[list[int]]:
    """The tokens before the first response of each row, without padding; of a row without labels all but the last."""
    ids, labels = batch["input_ids"], batch["labels"]
    ends = (batch[KEPT][:, -1] % ids.shape[1] + 1).tolist()
    found = []
    for row, end, counted in zip(ids, ends, labels != IGNORED, strict=True):
        behind = len(counted) - int(counted.int().argmax()) if counted.any() else 1
        found.append(row[: end - behind].tolist())
    return found


def _teacher_prompts(columns: dict[str, Tensor]) -> list[list[int]]:
    """The same in a teacher's tokens; of a text without responses all of it."""
    firsts = dict(reversed(columns["places"].tolist()))  # of each row the first place, which is the prompt's last token
    return [
        row[: firsts.get(number, length - 1) + 1]
        for number, (row, length) in enumerate(zip(columns["ids"].tolist(), columns["lengths"].tolist(), strict=True))
    ]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of their own; those of the training go on as if none had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def own_answers(
    objective: Objective, encoder: ExampleEncoder, collator: DistillationCollator, seed: int
) -> OwnAnswers | None:
    """What a training needs for an objective; None where the texts' answers alone are learned."""
    return OwnAnswers(objective, encoder, collator, seed) if objective.on_policy else None
