"""What a server says of a text as what a cache holds of it, or one sentence for why it can't be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from logitfusion.distill.served.protocols import MalformedError, Position
from logitfusion.distill.teacher_text import TeacherText
from logitfusion.distill.texts import EncodedText

# What servers write for a probability of 0, which JSON has no logarithm of.
_NOTHING = -9999.0
# By how much probabilities in single precision may miss 1: half precision, or other numbers, miss it by more.
_EXCESS = 1e-3
# What single precision can tell from 1.
_LEAST = 2.0**-24


class Answers:
    """Checks answers about a teacher's texts, and makes of them what a cache holds.

    Args:
        tokenizer: the teacher's.
        vocabulary: its entries.
        k: tokens kept of each position.
        remedy: what to do where a server gives fewer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, k: int, remedy: str) -> None:
        self.tokenizer, self.vocabulary, self.k, self.remedy = tokenizer, vocabulary, k, remedy
        self._spellings: dict[int, str] = {}

    def assemble(self, positions: Sequence[Position], text: EncodedText) -> TeacherText:
        """What the positions of ``text.places`` come to.

        Raises:
            MalformedError: they are of other tokens than were sent, are read by another tokenizer, or their numbers are
                too few or no log-probabilities.
        """
        for position, label in zip(positions, text.labels, strict=True):
            if position.token != label:
                raise MalformedError(f"names the token {position.token} where {label} was sent")
        self._check_spellings(positions)
        rows = [self._likeliest(position) for position in positions]
        ids, log_probs = ([[entry[part] for entry in row] for row in rows] for part in (0, 1))
        own = [_read_log_prob(position.log_prob) for position in positions]
        tails = [self._tail(*parts) for parts in zip(rows, text.labels, own, strict=True)]
        return TeacherText(
            log_probs=torch.tensor(log_probs).reshape(-1, self.k),
            ids=torch.tensor(ids, dtype=torch.long).reshape(-1, self.k),
            tail=torch.tensor(tails),
            label_log_probs=torch.tensor(own),
            ends=torch.tensor(text.ends, dtype=torch.long),
            digest=text.digest,
        )

    def _likeliest(self, position: Position) -> list[tuple[int, float]]:
        """The k likeliest tokens of a position and their log-probabilities, descending."""
        if len(position.top) < self.k:
            raise MalformedError(
                f"gives {len(position.top)} log-probabilities of a position, not {self.k}; {self.remedy}"
            )
        entries = {**position.top, position.token: position.log_prob}
        if not 0 <= min(entries) <= max(entries) < self.vocabulary:
            wrong = next(number for number in entries if not 0 <= number < self.vocabulary)
            raise MalformedError(
                f"has the token {wrong}, which is none of the {self.vocabulary} of the teacher's config.json; use the"
                " folder of the model that is served"
            )
        found = [(number, _read_log_prob(value)) for number, value in entries.items()]
        return sorted(found, key=lambda entry: -entry[1])[: self.k]

    def _tail(self, row: Sequence[tuple[int, float]], label: int, own: float) -> float:
        """The probability of all tokens but those of a row: what is missing from 1, as far as that can be told.

        Where the teacher is certain, 1 - sum is rounding. All that is known then is that it is at least the label's,
        and that no other token is likelier than the last of the row.

        Args:
            row: the likeliest tokens and their log-probabilities.
            label: the text's own token.
            own: its log-probability.
        """
        total = math.fsum(math.exp(value) for _, value in row)
        most = (self.vocabulary - self.k) * math.exp(row[-1][1])
        if not total - _EXCESS <= 1 <= total + most + _EXCESS:
            others = f", and those of all others to {most:.4f} at most" if total < 1 else ""
            raise MalformedError(
                f"gives numbers that are no log-probabilities: their probabilities come to {total:.4f}{others}; the"
                " server may give logits, or compute in half precision"
            )
        least = 0.0 if any(number == label for number, _ in row) else math.exp(own)
        return max(least, min(most, max(_LEAST, 1 - total)))

    def _check_spellings(self, positions: Sequence[Position]) -> None:
        """Refuse a server that decodes most tokens into other texts than the teacher's tokenizer.

        Some are decoded in other ways: parts of characters, spaces at the beginning of a text.
        """
        pairs = [(one.token, one.spelling.strip(), self._spell(one.token)) for one in positions if one.spelling]
        known = [pair for pair in pairs if pair[1] and "\ufffd" not in pair[1] + pair[2]]
        wrong = [pair for pair in known if pair[1] != pair[2]]
        if 2 * len(wrong) > len(known):
            token, theirs, ours = wrong[0]
            raise MalformedError(
                f"is of another tokenizer: it reads the token {token} as {theirs!r}, and the teacher's reads {ours!r};"
                " use the folder of the model that is served"
            )

    def _spell(self, token: int) -> str:
        if token not in self._spellings:
            self._spellings[token] = self.tokenizer.decode([token]).strip()
        return self._spellings[token]


def _read_log_prob(value: float) -> float:
    if math.isnan(value) or value > _EXCESS:
        raise MalformedError(
            f"gives the log-probability {value:.4g}; the server may give logits, or its model overflows"
        )
    return -math.inf if value <= _NOTHING else min(value, 0.0)
