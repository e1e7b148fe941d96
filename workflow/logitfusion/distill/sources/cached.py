"""Predictions that were made once, before the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from logitfusion.config.objective import Objective
from logitfusion.config.prompting import TextFormat
from logitfusion.distill.cache import TeacherCache, tokenizer_folder
from logitfusion.distill.encoding import EncodedText, spell_tokens
from logitfusion.distill.objective import CachedTeacher
from logitfusion.distill.predictions import Predictions
from logitfusion.distill.shared import SharedTokens
from logitfusion.distill.sources.matching import check_vocabulary, match_digests
from logitfusion.distill.vocabulary import Vocabulary, share_tokens
from logitfusion.errors import UserError
from logitfusion.models.examples import ExampleEncoder
from logitfusion.models.identity import has_tokenizer, hash_vocabulary
from logitfusion.models.load import load_tokenizer


class CachedSource:
    """A teacher's cache, which may hold more texts than are learned, in any order.

    Args:
        cache: of the texts.
        tokenizer: a folder that holds the teacher's, for terms that compare tokens by name; left out, the one that
            ``logitfusion distill-cache`` writes beside the shards.
    """

    def __init__(self, cache: TeacherCache, tokenizer: Path | None = None) -> None:
        self.cache, self.tokenizer = cache, tokenizer
        self.shared: SharedTokens | None = None

    def check(self, name: str, objective: Objective, tokenizer: PreTrainedTokenizerBase) -> None:
        """See ``Source``."""
        if self.cache.k < objective.entries:
            raise UserError(
                f"The cache of teacher {name!r} holds the top {self.cache.k}, not {objective.k}; lower k, or make a"
                " cache with a higher one."
            )
        check_vocabulary(name, self.cache.settings["vocabulary_hash"], objective, tokenizer)

    def share(self, name: str, student: Vocabulary) -> SharedTokens:
        """See ``Source``."""
        folder = self.tokenizer or tokenizer_folder(self.cache.shards[0].path.parent)
        if not has_tokenizer(folder):
            raise UserError(
                f"The term hybrid compares tokens by name, and the cache of teacher {name!r} has no tokenizer beside"
                f" it; save the teacher's to {folder}."
            )
        tokenizer = load_tokenizer(folder)
        if hash_vocabulary(tokenizer) != self.cache.settings["vocabulary_hash"]:
            raise UserError(
                f"The tokenizer in {folder} has other tokens than the one that the cache of teacher {name!r} was made"
                " with; save that one there."
            )
        form = TextFormat(template="chat" if self.cache.settings["template"].startswith("chat") else "plain")
        closing = ExampleEncoder(tokenizer, form).closing
        self.shared = share_tokens(student, Vocabulary(spell_tokens(tokenizer), self.cache.vocabulary, closing))
        return self.shared

    def match(self, name: str, texts: Sequence[EncodedText]) -> Sequence[int]:
        """See ``Source``."""
        return match_digests(name, self.cache.digests, texts)

    def ends(self, number: int) -> Sequence[int]:
        """See ``Source``."""
        return self.cache.ends(number)

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
        kept = Predictions(**predictions)
        return CachedTeacher(kept, groups, weight, columns["tail"], self.shared, self.cache.vocabulary)
