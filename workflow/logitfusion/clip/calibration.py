"""Probabilities that mean something: a temperature, and a threshold for "none of these", chosen on left-out images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from logitfusion.config.section import Positive, Share, Whole
from logitfusion.evaluate.calibration import expected_calibration_error

# Fewer left-out images say nothing about probabilities, and nothing about how low one of a right answer can be.
FEWEST_IMAGES = 10
# No temperature suits logits whose error is so far above what chance explains: in points, and as a multiple.
_POINTS_ABOVE_CHANCE, _TIMES_CHANCE = 0.05, 2.0
# Of right answers, at most so many are to be taken for "none of these".
REFUSED_SHARE = 0.05
# Halvings of the interval that holds the logarithm of the best inverse temperature.
_HALVINGS = 60
# Parts that calibration is judged on, each with a temperature from the others.
_PARTS = 4
# Draws of right and wrong answers that the error by chance is the mean of.
_DRAWS = 200
# Of the logarithm of the inverse temperature, for logits of spread 1.
_RANGE = (-12.0, 12.0)


@dataclass(frozen=True)
class Calibration:
    """What turns a head's logits into probabilities.

    Attributes:
        temperature: that logits are divided by (Guo et al., arXiv 1706.04599).
        threshold: an answer with a lower probability is "none of these"; 0: there is always an answer.
        error: expected calibration error (ECE), 0 to 1, the temperature chosen on other images than those that are
            judged; None where there are too few.
        error_by_chance: what exact probabilities would show on so many images, in the mean: ECE is never 0 by count.
        n: left-out images that all this was chosen on.
    """

    temperature: Positive
    threshold: Share = 0.0
    error: Share | None = None
    error_by_chance: Share | None = None
    n: Whole = 0

    def __post_init__(self) -> None:
        if self.calibrated and None in (self.error, self.error_by_chance):
            raise ValueError(f"the error is known from {FEWEST_IMAGES} images on")

    @property
    def calibrated(self) -> bool:
        """Whether the probabilities are shares of right answers: enough images were left out, and they bear it out."""
        return self.n >= FEWEST_IMAGES and not self.disproved

    @property
    def disproved(self) -> bool:
        """Whether the left-out images show that the probabilities are no shares of right answers.

        A temperature can't mend logits that prefer a class for all images, say: it changes no order of classes.
        """
        if self.error is None or self.error_by_chance is None:
            return False
        return self.error > max(self.error_by_chance + _POINTS_ABOVE_CHANCE, _TIMES_CHANCE * self.error_by_chance)

    def probabilities(self, logits: Tensor) -> Tensor:
        """``[..., C] -> [..., C]`` float64."""
        return (logits.double() / self.temperature).softmax(-1)

    def dump(self) -> dict[str, Any]:
        """As a head file keeps it."""
        return asdict(self)

    @classmethod
    def load(cls, stored: dict[str, Any] | None) -> Self:
        """None, of a head that was saved without one: the plain softmax."""
        return cls(1.0) if stored is None else cls(**stored)


def fit_calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """The calibration of a head whose kind gave these logits for images that it had not seen.

    Args:
        logits: ``[n, C]`` of left-out images, n at least 1.
        labels: ``[n]`` int64.
    """
    temperature = best_temperature(logits, labels)
    probabilities, predicted = (logits.double() / temperature).softmax(-1).max(-1)
    error, by_chance = _error(logits, labels) if len(labels) >= FEWEST_IMAGES else (None, None)
    return Calibration(temperature, _threshold(probabilities[predicted == labels]), error, by_chance, len(labels))


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the least cross-entropy, labels smoothed by ``1 / (n + 1)``.

    As if one more image had all labels: n right answers are no proof of certainty. The loss is convex in the inverse
    temperature, so its slope is halved in on.
    """
    logits = logits.double() - logits.double().mean(-1, keepdim=True)
    count, classes = logits.shape
    doubt = 1.0 / (count + 1)
    targets = torch.full_like(logits, doubt / classes)
    targets[torch.arange(count), labels] += 1.0 - doubt
    return _halve_in(logits, lambda expected: float(((expected - targets) * logits).sum()) > 0.0)


def matching_temperature(logits: Tensor, confidence: float) -> float:
    """The temperature with which the likeliest class has this probability in the mean: ``[n, C]`` -> T.

    The mean falls from 1 to 1 / C as the temperature grows; a confidence that is no more than 1 / C gets all but that.
    """
    return _halve_in(logits.double(), lambda found: float(found.amax(-1).mean()) > confidence)


def _halve_in(logits: Tensor, too_sharp: Callable[[Tensor], bool]) -> float:
    """The temperature between those whose probabilities are too sharp and those whose are not; 1 for equal logits."""
    spread = float((logits - logits.mean(-1, keepdim=True)).square().mean().sqrt())
    if spread == 0.0:
        return 1.0
    low, high = _RANGE
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if too_sharp((math.exp(middle) / spread * logits).softmax(-1)) else (middle, high)
    return spread / math.exp(low)


def _error(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The error with each part's temperature chosen on the other parts, and that of exact probabilities."""
    part = torch.arange(len(labels)) % _PARTS
    confidence = torch.zeros(len(labels), dtype=torch.float64)
    for number in range(_PARTS):
        temperature = best_temperature(logits[part != number], labels[part != number])
        confidence[part == number] = (logits[part == number].double() / temperature).softmax(-1).amax(-1)
    correct, found = (logits.argmax(-1) == labels).numpy(), confidence.numpy()
    rng = np.random.default_rng(0)
    exact = [expected_calibration_error(found, rng.random(len(found)) < found) for _ in range(_DRAWS)]
    return expected_calibration_error(found, correct), float(np.mean(exact))


def _threshold(right: Tensor) -> float:
    """The probability that all but a twentieth of right answers reach; 0 where there are too few to tell."""
    if len(right) < FEWEST_IMAGES:
        return 0.0
    rank = max(1, math.floor(REFUSED_SHARE * (len(right) + 1)))
    return float(right.kthvalue(rank).values)
