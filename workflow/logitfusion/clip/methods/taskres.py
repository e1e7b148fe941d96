"""TaskRes: a trained residual on the text classifier (arXiv 2211.10277)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from logitfusion.clip.adamw import AdamW, one_thread
from logitfusion.clip.heads import LinearHead, Support
from logitfusion.clip.methods.amu import schedule


@one_thread()
@torch.no_grad()
def fit_taskres(
    support: Support,
    settings: dict[str, Any],
    *,
    seed: int,
    on_epoch: Callable[[int, LinearHead], None] | None = None,
) -> LinearHead:
    """Logits ``scale * clip @ unit(classifier + alpha residual)``; the residual starts at 0 and is trained with Adam.

    One number of epochs for all shots and no warm-up (the paper: 100 or 200 epochs, by shots); weight decay is 0.
    """
    residual = torch.zeros_like(support.classifier)
    batch, epochs = settings["batch"], settings["epochs"]
    optimizer = AdamW(
        residual,
        steps=epochs * math.ceil(len(support.labels) / batch),
        **{name: settings[name] for name in ("learning_rate", "weight_decay", "epsilon")},
    )
    wanted = one_hot(support.labels, support.classes).to(support.clip.dtype)
    alpha = settings["alpha"]

    def head() -> LinearHead:
        weight = support.scale * normalize(support.classifier + alpha * residual, dim=0)
        return LinearHead(weight, None, weight.new_zeros(support.classes))

    for epoch, (order, view) in enumerate(schedule(len(wanted), support.clip.shape[1], epochs, seed), 1):
        parts = (support.clip[order, view], wanted[order])
        for features, labels in zip(*(part.split(batch) for part in parts), strict=True):
            gradient = _gradient(support.classifier + alpha * residual, features, labels, support.scale)
            optimizer.step(alpha * gradient)
        if on_epoch is not None:
            on_epoch(epoch, head())
    return head()


def _gradient(classifier: Tensor, features: Tensor, wanted: Tensor, scale: float) -> Tensor:
    """Of the mean cross-entropy of ``scale * features @ unit(classifier)`` by the classifier, ``[D, C]``."""
    size = classifier.norm(dim=0).clamp_min(1e-12)
    unit = classifier / size
    excess = (scale * (features @ unit)).softmax(-1) - wanted
    gradient = features.T @ excess * (scale / len(features))
    return (gradient - unit * (gradient * unit).sum(0)) / size
