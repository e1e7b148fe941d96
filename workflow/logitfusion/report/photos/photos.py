"""What a page of classified photos is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

FindThumbnail = Callable[[str], bytes | None]
"""The path of a photo -> a small WebP of it, or None."""


class Answered(Protocol):
    """One photo's answer, as ``logitfusion.clip.answers.Answer`` has it.

    Attributes:
        path: of the photo.
        label: the class; None for "none of these", and where the photo can't be read.
        probability: of the likeliest class.
        uncertainty: AMU's factor of CLIP, if the method has one.
        clip_label: CLIP's own answer.
        clip_probability: of that.
        error: why the photo can't be read, if it can't.
    """

    @property
    def path(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def probability(self) -> float | None: ...
    @property
    def uncertainty(self) -> float | None: ...
    @property
    def clip_label(self) -> str | None: ...
    @property
    def clip_probability(self) -> float | None: ...
    @property
    def error(self) -> str | None: ...


@dataclass(frozen=True)
class MethodRow:
    """A method on support images that were left out of its fit: how many of ``n`` are right, with the 95% interval.

    Attributes:
        gain: over CLIP alone, paired, with its interval; None for CLIP alone.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    n: int
    gain: tuple[float, float, float] | None = None
    recommended: bool = False


@dataclass(frozen=True)
class HeadFacts:
    """What a reader should know of the head that answered.

    Attributes:
        method: its name.
        facts: name -> text, of a line above the answers.
        calibration: in a sentence, what a probability means here.
        methods: the comparison that was made when the head was fitted; empty if none was.
        advice: what that comparison recommends, in a sentence.
    """

    method: str
    facts: Mapping[str, str]
    calibration: str
    methods: Sequence[MethodRow] = ()
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
        learnt: paths of photos that the head was fitted on.
        duplicates: groups of paths whose contents are equal.
        left_out: path -> why this file was not classified.
        folder: the page's, from which photos are linked; None for no links.
    """

    answers: Sequence[Answered]
    classes: Sequence[str]
    head: HeadFacts
    thumbnail: FindThumbnail
    truths: Sequence[str] | None = None
    learnt: Collection[str] = frozenset()
    duplicates: Sequence[Sequence[str]] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None

    def readable(self) -> list[int]:
        """The places of photos that were read."""
        return [place for place, answer in enumerate(self.answers) if answer.error is None]
