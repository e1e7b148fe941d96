"""Tip-Adapter and Tip-Adapter-F: a cache of support features votes for their labels (arXiv 2207.09519)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from logitfusion.clip.adamw import AdamW, one_thread
from logitfusion.clip.heads import CacheHead, Support
from logitfusion.clip.methods.amu import schedule


def fit_tip_adapter(support: Support, settings: dict[str, Any], *, seed: int) -> CacheHead:
    """Training-free: the keys are the support features, the mean of each image's views, normalised again."""
    keys = normalize(support.clip.mean(1), dim=-1)
    scale, alpha, beta = support.scale, settings["alpha"], settings["beta"]
    return CacheHead(support.classifier, keys, support.labels, scale, alpha, beta)


@one_thread()
@torch.no_grad()
def fit_tip_adapter_f(
    support: Support,
    settings: dict[str, Any],
    *,
    seed: int,
    on_epoch: Callable[[int, CacheHead], None] | None = None,
) -> CacheHead:
    """The keys are trained from there, not normalised again; labels, alpha and beta stay.

    An image meets its own key in training, as in the paper.
    """
    head = fit_tip_adapter(support, settings, seed=seed)
    batch, epochs = settings["batch"], settings["epochs"]
    optimizer = AdamW(
        head.keys,
        steps=epochs * math.ceil(len(head.keys) / batch),
        **{name: settings[name] for name in ("learning_rate", "weight_decay", "epsilon")},
    )
    zero_shot = support.zero_shot()
    wanted = one_hot(support.labels, support.classes).to(zero_shot.dtype)
    for epoch, (order, view) in enumerate(schedule(len(head.keys), support.clip.shape[1], epochs, seed), 1):
        parts = (support.clip[order, view], zero_shot[order, view], wanted[order])
        for features, logits, labels in zip(*(part.split(batch) for part in parts), strict=True):
            optimizer.step(_gradient(head, features, logits, labels))
        if on_epoch is not None:
            on_epoch(epoch, CacheHead(**(vars(head) | {"keys": head.keys.clone()})))
    return head


def _gradient(head: CacheHead, features: Tensor, zero_shot: Tensor, wanted: Tensor) -> Tensor:
    """Of the mean cross-entropy with respect to the keys, ``[n, D]``."""
    near = torch.exp(head.beta * (features @ head.keys.T - 1.0))
    logits = zero_shot.index_add(1, head.key_labels, near, alpha=head.alpha)
    excess = (logits.softmax(-1) - wanted) / len(features)
    return (head.alpha * head.beta * near * excess[:, head.key_labels]).T @ features
