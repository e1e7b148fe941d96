"""Tip-Adapter and Tip-Adapter-F: a cache of support features votes for their labels (arXiv 2207.09519)."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from logitfusion.clip.methods.base import AdamWSettings, FewShotMethod, FewShotSettings, OnEpoch
from logitfusion.config.section import NonNegative, number

if TYPE_CHECKING:
    from torch import Tensor

    from logitfusion.clip.heads import CacheHead, Support


class CacheSettings(FewShotSettings):
    """The settings of a cache's votes."""

    alpha: NonNegative = 1.0
    """Weight of the votes beside CLIP's logits; 0 is zero-shot CLIP."""
    beta: number(ge=0, le=1e6) = 5.5
    """Sharpness: a key at cosine c has the vote ``exp(-beta (1 - c))``."""


class TipAdapter(FewShotMethod):
    """Tip-Adapter: a cache of support features votes for their labels (arXiv 2207.09519).

    Training-free: the keys are the support features, the mean of each image's views, normalised again.
    """

    name = "tip_adapter"
    Settings = CacheSettings
    grid = tuple({"alpha": a, "beta": b} for a, b in product((0.5, 1.0, 2.0, 5.0, 10.0), (1.0, 3.0, 5.5, 10.0)))

    def fit(self, support: Support, settings: CacheSettings, *, seed: int, on_epoch: OnEpoch = None) -> CacheHead:
        from torch.nn.functional import normalize

        from logitfusion.clip.heads import CacheHead

        keys = normalize(support.clip.mean(1), dim=-1)
        return CacheHead(support.classifier, keys, support.labels, support.scale, settings.alpha, settings.beta)


class TipAdapterF(TipAdapter):
    """Tip-Adapter-F: Tip-Adapter with its keys trained (arXiv 2207.09519).

    They start as Tip-Adapter's and are not normalised again; labels, alpha and beta stay. An image meets its own key in
    training, as in the paper.
    """

    class Settings(CacheSettings, AdamWSettings.having(epochs=20, batch=256)):
        """The settings of ``tip_adapter_f``."""

    name = "tip_adapter_f"
    by_epochs = True

    def fit(self, support: Support, settings: Settings, *, seed: int, on_epoch: OnEpoch = None) -> CacheHead:
        import torch
        from torch.nn.functional import one_hot

        from logitfusion.clip.heads import CacheHead
        from logitfusion.clip.methods.adamw import AdamW, one_thread, schedule, split

        with one_thread(), torch.no_grad():
            head = super().fit(support, settings, seed=seed)
            optimizer = AdamW.of(head.keys, settings, count=len(head.keys))
            zero_shot = support.zero_shot()
            targets = one_hot(support.labels, support.classes).to(zero_shot.dtype)
            views = support.clip.shape[1]
            for epoch, (order, view) in enumerate(schedule(len(head.keys), views, settings.epochs, seed), 1):
                parts = (support.clip[order, view], zero_shot[order, view], targets[order])
                for features, logits, labels in split(parts, settings.batch):
                    optimizer.step(_gradient(head, features, logits, labels))
                if on_epoch is not None:
                    on_epoch(epoch, CacheHead(**(vars(head) | {"keys": head.keys.clone()})))
            return head


def _gradient(head: CacheHead, features: Tensor, zero_shot: Tensor, targets: Tensor) -> Tensor:
    """Of the mean cross-entropy with respect to the keys, ``[n, D]``."""
    near = (head.beta * (features @ head.keys.T - 1.0)).exp()
    logits = zero_shot.index_add(1, head.key_labels, near, alpha=head.alpha)
    excess = (logits.softmax(-1) - targets) / len(features)
    return (head.alpha * head.beta * near * excess[:, head.key_labels]).T @ features


METHODS = (TipAdapter(), TipAdapterF())
