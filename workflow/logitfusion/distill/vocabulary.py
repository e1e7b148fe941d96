"""Which tokens two vocabularies have in common: those that stand for the same bytes of a text.

Vocabularies of one kind spell a token alike, as byte-level ones do; others don't: ``Ġthe`` and ``▁the`` are the same
bytes, a space first. Special tokens are the same where their texts are, and what closes a response is the same on both
sides, whatever its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from logitfusion.distill.encoding import EncodedText, spell_tokens
from logitfusion.distill.shared import SharedTokens


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model by what they stand for.

    Attributes:
        tokens: the number of each, see ``encoding.spell_tokens``.
        size: entries of the model's logits; tokens beyond have none.
        closing: the token that closes a response.
    """

    tokens: dict[bytes | str, int]
    size: int
    closing: int | None

    @property
    def closes(self) -> bool:
        """Whether the closing token is known, and has a logit."""
        return self.closing is not None and self.closing < self.size

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, size: int, texts: Iterable[EncodedText] = ()) -> Vocabulary:
        """A tokenizer's; responses are closed as most of ``texts`` are, or by its end of text."""
        last = Counter(text.labels[-1] for text in texts if text.labels)
        closing = [token for token, _ in last.most_common() if token in tokenizer.added_tokens_decoder]
        return cls(spell_tokens(tokenizer), size, closing[0] if closing else tokenizer.eos_token_id)


def share_tokens(student: Vocabulary, teacher: Vocabulary) -> SharedTokens:
    """The tokens that a student and its teacher have in common."""
    ours, theirs = (
        {spelled: number for spelled, number in side.tokens.items() if number < side.size}
        for side in (student, teacher)
    )
    pairs = {theirs[spelled]: ours[spelled] for spelled in theirs.keys() & ours.keys()}
    if student.closes and teacher.closes:
        pairs = {there: here for there, here in pairs.items() if here != student.closing}
        pairs[teacher.closing] = student.closing
    places = torch.full((teacher.size,), -1)
    places[list(pairs)] = torch.tensor(list(pairs.values()), dtype=torch.int64)
    return SharedTokens(places)
