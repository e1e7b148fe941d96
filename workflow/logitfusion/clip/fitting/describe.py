"""What was found on left-out images, in whole sentences: the same ones on the command line and on pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from logitfusion.clip.calibration import Calibration
from logitfusion.clip.fitting.compare import CLIP_ALONE, Comparison, Score
from logitfusion.clip.heads import Support

SAME_TEXT = 1e-6  # 1 minus the cosine of two texts that differ by rounding alone


def describe_comparison(comparison: Comparison, fitted: str) -> Iterator[str]:
    """A line for each method, then what to take, then what was not tried.

    Args:
        fitted: the method of the head at hand.
    """
    if comparison.n == 0:
        yield "No class has two different images, so none could be left out, and methods could not be compared."
        return
    images = "image" if comparison.n == 1 else "images"
    yield (
        f"Methods on {comparison.n} {images}, each left out of the fit in turn (accuracy, and difference to CLIP alone,"
        " with 95% intervals):"
    )
    width = max(len(score.method) for score in comparison.scores)
    for score in comparison.scores:
        yield f"  {score.method:<{width}}  {_line(score)}"
    yield recommendation(comparison, fitted)
    reasons: dict[str, list[str]] = {}
    for method, why in comparison.not_tried.items():
        reasons.setdefault(why, []).append(method)
    for why, methods in reasons.items():
        yield f"Not tried, because {why}: {', '.join(methods)}."


def recommendation(comparison: Comparison, fitted: str) -> str:
    """Which method to take and why; empty where nothing could be left out."""
    best = comparison.score(comparison.recommended or "")
    if best is None:
        return ""
    if best.method != comparison.expected and best.method == CLIP_ALONE:
        advice = f"Keep CLIP alone (zero_shot): {comparison.expected} has no more of these images right."
    elif best.method != comparison.expected:
        advice = f"{best.method} is recommended: it is better than {comparison.expected} by more than chance allows."
    elif best.against_best.value < 0:
        advice = f"{best.method} is recommended: those with more right are ahead by no more than chance allows."
    else:
        advice = f"{best.method} is recommended: no method has more of these images right."
    if best.method != CLIP_ALONE and best.against_clip.low <= 0:
        advice += " Whether it is better than CLIP alone, so few images can't tell."
    return advice if best.method == fitted else f"{advice} To take it, fit again with --method {best.method}."


def describe_calibration(calibration: Calibration) -> Iterator[str]:
    """What the probabilities and the threshold rest on."""
    if calibration.n == 0:
        yield "The probabilities are not calibrated: no images of several classes were left out of the fit."
    elif calibration.disproved:
        yield (
            f"The probabilities are no shares of right answers, and no temperature makes them so (on {calibration.n}"
            f" left-out images, expected calibration error {calibration.error:.3f}; exact probabilities show"
            f" {calibration.error_by_chance:.3f} on so many)."
        )
    elif not calibration.calibrated:
        images = "image" if calibration.n == 1 else "images"
        yield f"The probabilities are not calibrated, because only {calibration.n} {images} could be left out."
    else:
        yield (
            f"The probabilities are calibrated on {calibration.n} left-out images (expected calibration error"
            f" {calibration.error:.3f}; exact probabilities show {calibration.error_by_chance:.3f} on so many)."
        )
    if calibration.threshold > 0:
        yield (
            f'An answer less probable than {calibration.threshold:.2f} is given as "none of these": it is unsure.'
            " Pictures of other things often get a class all the same."
        )
    else:
        yield 'There is no threshold, so no answer is "none of these".'


def describe_alike(classes: Sequence[str], classifier: Tensor) -> Iterator[str]:
    """A sentence if CLIP makes the same of several classes' prompts, whose words it doesn't know, say.

    Args:
        classifier: ``[D, C]``, a column a class.
    """
    texts = F.normalize(classifier.double(), dim=0)
    alike = (texts.T @ texts).triu(1) > 1.0 - SAME_TEXT
    if pairs := alike.nonzero().tolist():
        named = sorted({label for pair in pairs for label in pair})
        some = ", ".join(classes[label] for label in named[:5]) + (" ..." if len(named) > 5 else "")
        yield (
            f"CLIP's text encoder can't tell {len(named)} classes from another class ({some}): it does not know their"
            " words, say. Give them words that it knows with --class-names; until then only the photos tell them apart."
        )


def describe_unjudged(support: Support, classes: Sequence[str]) -> Iterator[str]:
    """A sentence if some classes, but not all, have a single image, which was left out of no fit."""
    kinds = support.groups if support.groups is not None else torch.arange(len(support.labels))
    single = [name for label, name in enumerate(classes) if len(kinds[support.labels == label].unique()) == 1]
    if 0 < len(single) < len(classes):
        some = ", ".join(single[:5]) + (" ..." if len(single) > 5 else "")
        yield (
            f"Classes with one image only, which could not be left out: {len(single)} of {len(classes)} ({some})."
            " Nothing here says how well they are recognised."
        )


def _line(score: Score) -> str:
    text = f"{score.accuracy:.3f} [{score.low:.3f}, {score.high:.3f}]"
    if score.method == CLIP_ALONE:
        return text
    gain = score.against_clip
    return f"{text}  {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
