"""Hyper-parameters from the support set alone, by cross-validation: no other data is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from logitfusion.clip.heads import Head, Support

# From so many images on two folds are enough: halves have plenty to learn from, and each fold is a training.
MANY_IMAGES = 400
# Each candidate's held-out logits are judged at their own best temperature.
_TEMPERATURES = tuple(2.0**power for power in range(-8, 3))


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each image, ``[n]`` from 0 to folds - 1; -1 for the only image of a class, which is always learned.

    Folds hold each class's images as evenly as can be, and so are as equal in size as can be.
    """
    generator = torch.Generator().manual_seed(seed)
    found = torch.full_like(labels, -1)
    dealt = 0
    for label in labels.unique():
        places = (labels == label).nonzero()[:, 0]
        if len(places) > 1:
            shuffled = places[torch.randperm(len(places), generator=generator)]
            found[shuffled] = (dealt + torch.arange(len(places))) % folds
            dealt += len(places)
    return found


def cross_validate(
    fit: Callable[[Support, Sequence[dict[str, Any]]], Sequence[Head]],
    support: Support,
    candidates: Sequence[dict[str, Any]],
    *,
    folds: int,
    seed: int,
) -> Tensor | None:
    """The held-out loss of each candidate, ``[K]`` in nats; None where no class has two images.

    Every image is predicted, in its plain view, by heads that have not seen it. The loss is ``calibrated_loss`` of all
    these predictions together. There are at most as many folds as the largest class has images, and two for a support
    set of 400 images or more.

    Args:
        fit: heads of several settings on one support set.
    """
    folds = min(folds, 2 if len(support.labels) >= MANY_IMAGES else folds, int(torch.bincount(support.labels).max()))
    if folds < 2:
        return None
    fold = stratified_folds(support.labels, folds, seed)
    logits, labels = [], []
    for held_out in range(folds):
        rest, test = support.at(fold != held_out), support.at(fold == held_out)
        auxiliary = None if test.auxiliary is None else test.auxiliary[:, 0]
        logits.append(torch.stack([head.logits(test.clip[:, 0], auxiliary) for head in fit(rest, candidates)]))
        labels.append(test.labels)
    return calibrated_loss(torch.cat(logits, 1), torch.cat(labels))


def calibrated_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy at the best temperature of a grid: ``[K, n, C]``, ``[n]`` -> ``[K]``.

    The scale of logits does not change an answer, so a candidate is not punished for it; their order and distances
    are finer than counts of right answers, which tie on a few images.
    """
    losses = []
    for temperature in _TEMPERATURES:
        log_probabilities = (temperature * logits.double()).log_softmax(-1)
        losses.append(-log_probabilities[:, torch.arange(len(labels)), labels].mean(1))
    return torch.stack(losses).amin(0)
