"""Which of a teacher's texts is which of the student's, and whether their tokens are the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from logitfusion.config.objective import Objective
from logitfusion.distill.texts import UNKNOWN_TEXT, EncodedText, text_digests
from logitfusion.errors import UserError
from logitfusion.models.identity import hash_vocabulary

logger = logging.getLogger(__name__)


def match_digests(name: str, digests: Sequence[bytes], texts: Sequence[EncodedText]) -> Sequence[int]:
    """The teacher's number of each of the student's texts.

    Texts are known by their digests; where some have none, all are taken in their order.

    Args:
        name: the teacher's.
        digests: of the teacher's texts.
        texts: the student's.

    Raises:
        UserError: the teacher lacks a text, or has others in that order.
    """
    wanted = text_digests(texts)
    if UNKNOWN_TEXT in digests or UNKNOWN_TEXT in wanted:
        _check_order(name, digests, wanted)
        logger.warning("teacher %s: some of its texts have no digest, and may be others than the student's", name)
    if digests == wanted:
        return range(len(wanted))
    numbers = {digest: number for number, digest in enumerate(digests)}
    for number, digest in enumerate(wanted, 1):
        if digest not in numbers:
            raise UserError(
                f"Teacher {name!r} does not have the student's text {number}; let it read all texts that the student"
                " learns or is evaluated on (a cache: make it anew of them)."
            )
    return [numbers[digest] for digest in wanted]


def _check_order(name: str, digests: Sequence[bytes], wanted: Sequence[bytes]) -> None:
    """Refuse other texts than the student's, or another order of them."""
    if len(digests) != len(wanted):
        raise UserError(
            f"Teacher {name!r} has {len(digests)} texts and the student {len(wanted)}, and some of them have no digest;"
            " let it read the same texts in the same order."
        )
    for number, (found, digest) in enumerate(zip(digests, wanted, strict=True), 1):
        if found != digest:
            raise UserError(
                f"Text {number} of teacher {name!r} is not the student's text {number}; let it read the same texts in"
                " the same order."
            )


def check_vocabulary(name: str, vocabulary_hash: str, objective: Objective, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a teacher of another vocabulary where tokens are compared: for those there are the other terms.

    Args:
        name: the teacher's.
        vocabulary_hash: of its tokenizer.
        objective: of the training.
        tokenizer: the student's.

    Raises:
        UserError: names the teacher.
    """
    if objective.kl and vocabulary_hash != hash_vocabulary(tokenizer):
        raise UserError(
            f"Teacher {name!r} has another vocabulary than the student, and the term kl compares token by token;"
            " give another teacher, or uld, gld or hybrid in its place."
        )
