"""How well a method does on the support set's images when each is left out of what it is fitted to."""

from __future__ import annotations

import torch
from torch import Tensor

from logitfusion.clip.fitting.fit import Settings, fit_method
from logitfusion.clip.fitting.selection import stratified_folds
from logitfusion.clip.heads import Support


def predict_left_out(name: str, support: Support, settings: Settings = None, *, folds: int = 4, seed: int) -> Tensor:
    """The class of each image (plain view) by a head that has not seen it, ``[n]`` int64.

    The whole of ``fit_method`` is repeated without each part, its selection of settings included, so nothing has been
    chosen on the images that are predicted. The heads are fitted to fewer images than the one of all, which is
    therefore rather better. -1 for the only image of a class, which no head can do without.

    Args:
        folds: parts; at most as many as the largest class has images are made.
    """
    predicted = torch.full_like(support.labels, -1)
    folds = min(folds, int(torch.bincount(support.labels).max()))
    fold = stratified_folds(support.labels, folds, seed)
    for left_out in range(folds if folds > 1 else 0):
        head = fit_method(name, support.at(fold != left_out), settings, seed=seed)
        part = support.at(fold == left_out)
        auxiliary = None if part.auxiliary is None else part.auxiliary[:, 0]
        predicted[fold == left_out] = head.logits(part.clip[:, 0], auxiliary).argmax(-1)
    return predicted
