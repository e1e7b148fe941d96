"""From a generated text to an answer, and from an answer to right, wrong, or not an answer at all."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from logitfusion.config.tasks import Answer

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Judgement:
    """What became of a generated text: the ``answer`` found (None: a format failure), and whether it is ``correct``."""

    answer: str | None
    correct: bool

    @property
    def format_failure(self) -> bool:
        """Whether no answer of the asked form was found: kept apart from a wrong answer."""
        return self.answer is None


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces (the SQuAD convention).

    A text that is nothing but punctuation or an article keeps it: it may be the answer.
    """
    lower = " ".join(text.lower().split())
    plain = " ".join(lower.translate(_PUNCTUATION).split())
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain or lower


def _first_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[0].strip() if lines else ""


def extract(text: str, form: Answer) -> str | None:
    """The answer in a generated text, or None where there is none of the asked form.

    ``form.kind`` is ``choice`` (the text must begin with one of ``form.choices``), ``number`` (it must begin with a
    number; thousands' commas are dropped), or ``text`` (the first line, at most ``form.max_words`` words).
    """
    line = _first_line(text)
    if form.kind == "choice":
        for choice in sorted(form.choices, key=len, reverse=True):
            if re.match(re.escape(choice) + r"(?!\w)", line, flags=re.IGNORECASE):
                return choice
        return None
    if form.kind == "number":
        match = _NUMBER.match(line)
        return match.group(0).replace(",", "") if match else None
    words = normalise(line).split()
    if not words or len(words) > form.max_words:
        return None
    return " ".join(words)


def judge(text: str, accepted: list[str], form: Answer) -> Judgement:
    """Whether the extracted answer is an accepted one: choices without case, numbers by value, texts normalised."""
    answer = extract(text, form)
    if answer is None:
        return Judgement(None, False)
    if form.kind == "choice":
        return Judgement(answer, answer.casefold() in {gold.casefold() for gold in accepted})
    if form.kind == "number":
        return Judgement(
            answer, Decimal(answer) in {number for number in map(parse_number, accepted) if number is not None}
        )
    return Judgement(answer, normalise(answer) in {normalise(gold) for gold in accepted})


def parse_number(text: str) -> Decimal | None:
    """A number's exact value, thousands' commas dropped; None where the text is no number."""
    try:
        number = Decimal(text.replace(",", "").strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
