"""What a method says of the support set's images when each is left out of what it is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.clip.fitting.fit import Settings, fit_method
from logitfusion.clip.fitting.selection import first_of_each, held_out_folds
from logitfusion.clip.heads import Support
from logitfusion.clip.methods import METHODS, FewShotSettings, complete_settings
from logitfusion.clip.methods.progress import portion


@dataclass(frozen=True)
class LeftOut:
    """Answers to images that were left out.

    Attributes:
        logits: ``[n, C]``; of an image that was not left out they are 0.
        predicted: ``[n]``, which were. Not the only image of a class, which no head can do without, and not a second
            image of the same content, which would count one answer twice.
    """

    logits: Tensor
    predicted: Tensor

    @property
    def classes(self) -> Tensor:
        """The answers, ``[n]`` int64; -1 where there is none."""
        return torch.where(self.predicted, self.logits.argmax(-1), -1)


def left_out_logits(name: str, support: Support, settings: Settings = None, *, folds: int = 4, seed: int) -> LeftOut:
    """The logits of each image (plain view) by a head that has seen neither it nor another of its ``groups``.

    The whole of ``fit_method`` is repeated without each part, its selection of settings included, so nothing has been
    chosen on the images that are predicted. The heads are fitted to fewer images than the one of all, which is
    therefore rather better.

    Args:
        folds: parts; at most as many as the largest class has images, and two from 400 images on.
    """
    chosen = complete_settings(name, settings.dump() if isinstance(settings, FewShotSettings) else settings or {})
    logits = support.clip.new_zeros(len(support.labels), support.classes)
    fold = held_out_folds(support, folds, seed)
    folds = int(fold.max()) + 1
    for number in range(folds):
        rest, own = support.at(fold != number), chosen
        if chosen.selection == "fixed":
            own = METHODS[name].settings_of_part(chosen, len(rest.labels) / len(support.labels))
        with portion(number, 1, folds):
            head = fit_method(name, rest, own, seed=seed)
        logits[fold == number] = head.logits(*support.at(fold == number).plain).to(logits.dtype)
    return LeftOut(logits, (fold >= 0) & first_of_each(support))
