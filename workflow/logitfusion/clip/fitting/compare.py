"""Which method to take: those that apply, judged on support images that are left out of each fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from logitfusion.clip.fitting.fit import Settings
from logitfusion.clip.fitting.left_out import LeftOut, left_out_logits
from logitfusion.clip.fitting.selection import calibrated_loss
from logitfusion.clip.heads import Support
from logitfusion.clip.methods import DEFAULT_METHOD, METHODS, FewShotSettings, complete_settings
from logitfusion.config.section import Listed
from logitfusion.evaluate.intervals import paired_interval, wilson_interval

CLIP_ALONE = "zero_shot"
# CLIP alone, the parts of a fusion, and a method of each kind.
COMPARED = (
    CLIP_ALONE,
    "clip_probe",
    "auxiliary_probe",
    "logit_sum",
    "tip_adapter_f",
    "gda",
    "amu",
    "amu_classes",
    DEFAULT_METHOD,
)
# Images x classes x passes of a method that is fitted up to four times for a comparison unasked.
CHEAP = 20_000_000


@dataclass(frozen=True)
class Difference:
    """A method's accuracy minus another's on the same images, with its paired 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """One method on the left-out images.

    Attributes:
        method: its name.
        right: images that it has right, of ``Comparison.n``.
        accuracy: their share, with Wilson's 95% interval from ``low`` to ``high``.
        loss: mean cross-entropy in nats at the method's best temperature, which ranks methods with equally many right.
        against_clip, against_best: paired differences to CLIP alone, and to the method with the most right answers.
    """

    method: str
    right: int
    accuracy: float
    low: float
    high: float
    loss: float
    against_clip: Difference
    against_best: Difference


@dataclass(frozen=True)
class Comparison:
    """Methods on the same left-out images.

    Attributes:
        n: images that every method has answered without having learnt from them; 0: none could be left out.
        scores: of the methods, in their order; none where n is 0.
        recommended: the method to take; None where n is 0. ``zero_shot``: keep CLIP alone.
        expected: the method that was to be taken before anything was seen.
        not_tried: methods that were left out of the comparison, and why.
    """

    n: int
    scores: Listed[Score] = ()
    recommended: str | None = None
    expected: str | None = None
    not_tried: dict[str, str] = field(default_factory=dict)

    def score(self, method: str) -> Score | None:
        """Of one method; None where it was not tried."""
        return next((one for one in self.scores if one.method == method), None)

    def dump(self) -> dict[str, Any]:
        """As a head file keeps it."""
        return asdict(self)

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        """What ``dump`` gave, perhaps by way of JSON."""
        scores = [
            Score(
                **{
                    **score,
                    "against_clip": Difference(**score["against_clip"]),
                    "against_best": Difference(**score["against_best"]),
                }
            )
            for score in stored["scores"]
        ]
        return cls(**{**stored, "scores": tuple(scores)})


def compare_methods(
    support: Support,
    methods: Mapping[str, Settings],
    *,
    expected: str,
    seed: int,
    folds: int = 4,
    on_method: Callable[[str], None] | None = None,
    not_tried: Mapping[str, str] | None = None,
) -> Comparison:
    """Judge methods on the support set's images, each left out of all its fits in turn, the same for every method.

    The expected method is recommended unless another is better beyond its paired 95% interval (of several, the one with
    the most images right), or unless it has no image right that CLIP alone has not. To take whatever has the most right
    would be worse: of many methods on few images one is first by luck.

    Args:
        methods: names with settings (or None for the defaults); CLIP alone is always among them.
        expected: one of them, which is known to be good in general.
        seed: of the folds and of all fits.
        on_method: called with each name before it is fitted.
        not_tried: see ``Comparison``.
    """
    found: dict[str, LeftOut] = {}
    for name in dict.fromkeys((CLIP_ALONE, *methods)):
        if on_method is not None:
            on_method(name)
        found[name] = left_out_logits(name, support, methods.get(name), folds=folds, seed=seed)
    return replace(compare_left_out(found, support.labels, expected), not_tried=dict(not_tried or {}))


def choose_methods(
    support: Support, chosen: Mapping[str, FewShotSettings | None], *, dear: bool
) -> tuple[dict[str, Settings], dict[str, str]]:
    """Which of ``COMPARED`` and the chosen methods to compare, and why others are not.

    Args:
        chosen: methods with settings (None: the defaults), the fitted one say.
        dear: whether those are tried too of which images x classes x passes are many. Sizes and settings decide, never
            the time that something takes.
    """
    methods: dict[str, Settings] = {}
    not_tried = {}
    for name in dict.fromkeys((*COMPARED, *chosen)):
        settings = chosen.get(name) or complete_settings(name, {})
        passes = METHODS[name].passes(settings)
        if METHODS[name].reads_auxiliary(settings) and support.auxiliary is None:
            not_tried[name] = "there is no auxiliary encoder (--auxiliary)"
        elif not dear and len(support.labels) * support.classes * passes > CHEAP:
            not_tried[name] = f"images x classes x passes are more than {CHEAP:,} (--compare always tries all)"
        else:
            methods[name] = settings
    return methods, not_tried


def compare_left_out(found: Mapping[str, LeftOut], labels: Tensor, expected: str) -> Comparison:
    """The comparison of methods, ``zero_shot`` among them, by their answers to the same left-out images.

    Args:
        labels: ``[n]`` int64 of the support set.
    """
    predicted = found[CLIP_ALONE].predicted
    labels, count = labels[predicted], int(predicted.sum())
    if count == 0:
        return Comparison(0, expected=expected)
    right = {name: one.classes[predicted] == labels for name, one in found.items()}
    losses = {name: float(calibrated_loss(one.logits[predicted][None], labels)) for name, one in found.items()}
    order = sorted(found, key=lambda name: (-int(right[name].sum()), name != CLIP_ALONE, losses[name]))
    scores = tuple(_score(name, right, losses[name], order[0]) for name in found)
    return Comparison(count, scores, _recommend(order, right, expected), expected)


def _recommend(order: list[str], right: Mapping[str, Tensor], expected: str) -> str:
    """See ``compare_methods``; ``order`` has the methods with the most right first."""
    for name in order:
        if _difference(right[name], right[expected]).low > 0:
            return name
    return expected if bool((right[expected] & ~right[CLIP_ALONE]).any()) else CLIP_ALONE


def _score(name: str, right: Mapping[str, Tensor], loss: float, best: str) -> Score:
    own = right[name]
    count, total = int(own.sum()), len(own)
    low, high = wilson_interval(count, total)
    clip, first = (_difference(own, right[other]) for other in (CLIP_ALONE, best))
    return Score(name, count, count / total, low, high, loss, clip, first)


def _difference(one: Tensor, other: Tensor) -> Difference:
    gained, lost = int(torch.count_nonzero(one & ~other)), int(torch.count_nonzero(other & ~one))
    return Difference((gained - lost) / len(one), *paired_interval(gained, lost, len(one)))
