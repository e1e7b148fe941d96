"""The calibration of a fitted head, on support images that are left out of heads of the same settings."""

from __future__ import annotations

from logitfusion.clip.calibration import Calibration, fit_calibration, matching_temperature
from logitfusion.clip.fitting.left_out import left_out_logits
from logitfusion.clip.heads import Head, Support
from logitfusion.clip.methods import METHODS


def calibrate_head(head: Head, support: Support, *, seed: int) -> Calibration:
    """What turns the head's logits into probabilities, from images that heads of its settings have not seen.

    Settings that were selected stay as they are: the size of logits depends on them, and a fold that selects others
    would say nothing of this head.

    Where no class has two images, nothing can be left out, and images of one class alone say nothing of telling two
    apart. Then CLIP, which has not seen any, is all that can be
    measured, and the head is taken to be no better than it: its mean probability on the images that it has learnt from,
    which are its best case, is CLIP's share of right answers (with one more right and one more wrong).
    """
    settings = {key: head.settings[key] for key in METHODS[head.method].Settings.describe()}
    found = left_out_logits(head.method, support, settings | {"selection": "fixed"}, seed=seed)
    labels = support.labels[found.predicted]
    if len(labels.unique()) > 1:
        return fit_calibration(found.logits[found.predicted], labels)
    right = int((support.zero_shot()[:, 0].argmax(-1) == support.labels).sum())
    return Calibration(matching_temperature(head.logits(*support.plain), (right + 1) / (len(support.labels) + 2)))


def calibrate_clip(support: Support) -> Calibration:
    """Of CLIP alone, which has not learnt from any of the images."""
    return fit_calibration(support.zero_shot()[:, 0], support.labels)
