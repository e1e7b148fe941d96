"""Predictions that were made once, before the training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from logitfusion.config.objective import Objective
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.objective import CachedTeacher
from logitfusion.distill.predictions import Predictions
from logitfusion.distill.sources.matching import check_vocabulary, match_digests
from logitfusion.errors import UserError


class CachedSource:
    """A teacher's cache, which may hold more texts than are learned, in any order."""

    def __init__(self, cache: TeacherCache) -> None:
        self.cache = cache

    def check(self, name: str, objective: Objective, tokenizer: PreTrainedTokenizerBase) -> None:
        """See ``Source``."""
        if self.cache.k < objective.k:
            raise UserError(
                f"The cache of teacher {name!r} holds the top {self.cache.k}, not {objective.k}; raise cache.k."
            )
        check_vocabulary(name, self.cache.settings["vocabulary_hash"], objective, tokenizer)

    def match(self, name: str, texts: Sequence[EncodedText]) -> Sequence[int]:
        """See ``Source``."""
        return match_digests(name, self.cache.digests, texts)

    def ends(self, number: int) -> Sequence[int]:
        """See ``Source``."""
        return self.cache[number].ends.tolist()

    def collate(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """See ``Source``."""
        texts = [self.cache[number] for number in numbers]
        columns = ("log_probs", "ids", "label_log_probs", "tail")
        return {name: torch.cat([getattr(text, name) for text in texts]) for name in columns} | {
            "counts": torch.tensor([len(text) for text in texts])
        }

    def read(self, columns: dict[str, Tensor], groups: Tensor, weight: float) -> CachedTeacher:
        """See ``Source``."""
        predictions = {name: value for name, value in columns.items() if name != "tail"}
        return CachedTeacher(Predictions(**predictions), groups, weight, columns["tail"])
