"""Answers in generated texts, for definitions: what counts as one, and whether it is right.

Filters give ``[invalid]`` where a text has no answer of the asked form, which is kept apart from a wrong answer.
"""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter

from logitfusion.tasks.definition import INVALID

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _FirstLine(Filter):
    """Finds the answer in the first line that is not empty."""

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:
        return [[self.find(_first_line(text)) or INVALID for text in texts] for texts in resps]

    def find(self, line: str) -> str:
        """The answer in a line; nothing where there is none."""
        raise NotImplementedError


@register_filter("first_line")
class FirstLine(_FirstLine):
    """The first line as it is, whatever it says."""

    def find(self, line: str) -> str:
        return line


@register_filter("first_word")
class FirstWord(_FirstLine):
    """The first word of the first line, with its apostrophes and hyphens."""

    def find(self, line: str) -> str:
        match = _WORD.search(line)
        return match.group(0) if match else ""


@register_filter("leading_number")
class LeadingNumber(_FirstLine):
    """The number that a text begins with; thousands' commas are dropped."""

    def find(self, line: str) -> str:
        match = _NUMBER.match(line)
        return match.group(0).replace(",", "") if match else ""


@register_filter("short_answer")
class ShortAnswer(_FirstLine):
    """The first line, normalised, if it has few enough words.

    Args:
        max_words: a longer one is no answer.
    """

    def __init__(self, max_words: int = 5) -> None:
        self.max_words = max_words

    def find(self, line: str) -> str:
        words = normalise(line).split()
        return " ".join(words) if len(words) <= self.max_words else ""


def _first_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[0].strip() if lines else ""


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces (the SQuAD convention).

    A text that is nothing but punctuation or an article keeps it: it may be the answer.
    """
    lower = " ".join(text.lower().split())
    plain = " ".join(lower.translate(_PUNCTUATION).split())
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain or lower


def accuracy(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Whether a choice is the right one."""
    return float(references[0] == predictions[0])


def exact_match(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Whether an answer is the right one, both normalised."""
    return float(normalise(references[0]) == normalise(predictions[0]))


def same_characters(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Whether an answer is the right one but for spaces: of code and lists, whose case and punctuation count."""
    return float("".join(references[0].split()) == "".join(predictions[0].split()))


same_characters.__name__ = "exact_match"  # the name under which the harness reports it


def right_places(references: Sequence[str], predictions: Sequence[str]) -> float:
    """The share of a list's entries that an answer has at their places, of the longer of the two lists."""
    right, said = (["".join(entry.split()) for entry in text.split(",")] for text in (references[0], predictions[0]))
    return sum(map(operator.eq, right, said)) / max(len(right), len(said))


def equal_numbers(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Whether an answer has the value of the right one."""
    found = _parse_number(predictions[0])
    return float(found is not None and found == _parse_number(references[0]))


equal_numbers.__name__ = "exact_match"


def _parse_number(text: str) -> Decimal | None:
    try:
        number = Decimal(text.replace(",", "").strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
