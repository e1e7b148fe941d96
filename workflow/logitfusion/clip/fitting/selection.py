"""Hyper-parameters from the support set alone, by cross-validation: no other data is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from logitfusion.clip.heads import Head, Support
from logitfusion.clip.methods.progress import portion

# From so many images on two folds are enough: halves have plenty to learn from, and each fold is a training.
MANY_IMAGES = 400
# Each candidate's held-out logits are judged at their own best temperature.
_TEMPERATURES = tuple(2.0**power for power in range(-8, 3))


def stratified_folds(labels: Tensor, folds: int, seed: int, groups: Tensor | None = None) -> Tensor:
    """The fold of each image, ``[n]`` from 0 to folds - 1; -1 for the only image of a class, which is always learned.

    Folds hold each class's images as evenly as can be, and so are as equal in size as can be.

    Args:
        groups: ``[n]``, equal for images that are in one fold, as those of equal content; None: each is its own. They
            are dealt as one image of the first one's class, and count as one image of each class that they are in.
    """
    generator = torch.Generator().manual_seed(seed)
    first, groups = _first_places(torch.arange(len(labels)) if groups is None else groups)
    order = first.argsort()
    order = order[~_alone(labels, groups, len(first))[order]]
    found = torch.full_like(first, -1)  # of each group
    dealt = 0
    for label in labels.unique():
        members = order[labels[first[order]] == label]
        if len(members) > 0:
            shuffled = members[torch.randperm(len(members), generator=generator)]
            found[shuffled] = (dealt + torch.arange(len(members))) % folds
            dealt += len(members)
    return found[groups]


def held_out_folds(support: Support, folds: int, seed: int) -> Tensor:
    """``stratified_folds`` of a support set with its groups; all -1 where no class has two images to hold one out.

    There are at most as many folds as the largest class has images (of a content each), and two for a support set of
    400 images or more.
    """
    once = support.labels[first_of_each(support)]
    folds = min(folds, 2 if len(support.labels) >= MANY_IMAGES else folds, int(torch.bincount(once).max()))
    if folds < 2:
        return torch.full_like(support.labels, -1)
    return stratified_folds(support.labels, folds, seed, support.groups)


def first_of_each(support: Support) -> Tensor:
    """Which images are the first of their group with their label, ``[n]`` bool: all where there are no groups."""
    if support.groups is None:
        return torch.ones_like(support.labels, dtype=torch.bool)
    chosen = torch.zeros_like(support.labels, dtype=torch.bool)
    chosen[_first_places(torch.stack([support.groups, support.labels], 1))[0]] = True
    return chosen


def _first_places(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of G groups comes first, ``[G]``, and which each image is of, ``[n]`` from 0 to G - 1."""
    values, members = groups.unique(dim=0, return_inverse=True)
    first = torch.full((len(values),), len(groups))
    return first.scatter_reduce(0, members, torch.arange(len(groups)), "amin"), members


def _alone(labels: Tensor, groups: Tensor, count: int) -> Tensor:
    """Which of ``count`` groups have all images of a class, ``[count]`` bool."""
    pairs = torch.stack([labels, groups], 1).unique(dim=0)
    single = torch.bincount(pairs[:, 0])[pairs[:, 0]] == 1
    alone = torch.zeros(count, dtype=torch.bool)
    alone[pairs[single, 1]] = True
    return alone


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
    these predictions together. The folds are those of ``held_out_folds``.

    Args:
        fit: heads of several settings on one support set.
    """
    fold = held_out_folds(support, folds, seed)
    logits, labels = [], []
    folds = int(fold.max()) + 1
    for held_out in range(folds):
        rest, test = support.at(fold != held_out), support.at(fold == held_out)
        with portion(held_out, 1, folds):
            heads = fit(rest, candidates)
        logits.append(torch.stack([head.logits(*test.plain) for head in heads]))
        labels.append(test.labels)
    return calibrated_loss(torch.cat(logits, 1), torch.cat(labels)) if logits else None


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
