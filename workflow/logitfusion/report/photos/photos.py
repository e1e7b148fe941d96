"""What a page of classified photos is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the report's environment has no torch
    from logitfusion.clip.answers import Answer
    from logitfusion.clip.fitting.compare import Comparison

FindThumbnail = Callable[[str], bytes | None]
"""The path of a photo -> a small WebP of it, or None."""


@dataclass(frozen=True)
class HeadFacts:
    """What a reader should know of the head that answered.

    Attributes:
        method: its name.
        learnt: what it was fitted on, in a sentence.
        calibration: what its probabilities rest on, in sentences.
        comparison: of methods, made when the head was fitted; None if none was.
        advice: what the comparison recommends, in a sentence.
    """

    method: str
    learnt: str
    calibration: str
    comparison: Comparison | None = None
    advice: str = ""


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos with their answers.

    Attributes:
        answers: one a photo, those that can't be read too.
        classes: names, in the order of labels.
        head: what answered.
        thumbnail: finds small pictures.
        truths: what each photo of ``answers`` really shows (a name of ``classes``); None if that isn't known.
        duplicates: groups of paths whose contents are equal.
        left_out: path -> why this file was not classified.
        folder: the page's, from which photos are linked; None for no links.
    """

    answers: Sequence[Answer]
    classes: Sequence[str]
    head: HeadFacts
    thumbnail: FindThumbnail
    truths: Sequence[str] | None = None
    duplicates: Sequence[Sequence[str]] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None

    def readable(self) -> list[int]:
        """The places of photos that were read."""
        return [place for place, answer in enumerate(self.answers) if answer.error is None]

    def learnt(self) -> list[str]:
        """The paths of photos that the head was fitted on."""
        return [answer.path for answer in self.answers if answer.learnt]
