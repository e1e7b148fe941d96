"""TaskRes: a trained residual on the text classifier (arXiv 2211.10277)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfusion.clip.methods.base import AdamWSettings, FewShotMethod, OnEpoch
from logitfusion.config.section import NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from logitfusion.clip.heads import LinearHead, Support

_TRAINING = {"epochs": 100, "batch": 256, "learning_rate": 2e-3, "weight_decay": 0.0, "epsilon": 1e-8}


class TaskRes(FewShotMethod):
    """TaskRes: a trained residual on the text classifier (arXiv 2211.10277).

    Logits ``scale * clip @ unit(classifier + alpha residual)``; the residual starts at 0 and is trained with Adam. One
    number of epochs for all shots and no warm-up (the paper: 100 or 200 epochs, by shots); weight decay is 0.
    """

    class Settings(AdamWSettings.having(**_TRAINING)):
        """The settings of ``taskres``."""

        alpha: NonNegative = 0.5
        """Weight of the residual; 0 is zero-shot CLIP."""

    name = "taskres"
    grid = tuple({"alpha": value} for value in (0.1, 0.5, 1.0))
    by_epochs = True

    def fit(self, support: Support, settings: Settings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        import torch
        from torch.nn.functional import normalize, one_hot

        from logitfusion.clip.heads import LinearHead
        from logitfusion.clip.methods.adamw import AdamW, one_thread, schedule, split

        alpha, classifier = settings.alpha, support.classifier

        def head() -> LinearHead:
            weight = support.scale * normalize(classifier + alpha * residual, dim=0)
            return LinearHead(weight, None, weight.new_zeros(support.classes))

        with one_thread(), torch.no_grad():
            residual = torch.zeros_like(classifier)
            optimizer = AdamW.of(residual, settings, count=len(support.labels))
            targets = one_hot(support.labels, support.classes).to(support.clip.dtype)
            views = support.clip.shape[1]
            for epoch, (order, view) in enumerate(schedule(len(targets), views, settings.epochs, seed), 1):
                for features, labels in split((support.clip[order, view], targets[order]), settings.batch):
                    optimizer.step(alpha * _gradient(classifier + alpha * residual, features, labels, support.scale))
                if on_epoch is not None:
                    on_epoch(epoch, head())
            return head()


def _gradient(classifier: Tensor, features: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Of the mean cross-entropy of ``scale * features @ unit(classifier)`` by the classifier, ``[D, C]``."""
    size = classifier.norm(dim=0).clamp_min(1e-12)
    unit = classifier / size
    excess = (scale * (features @ unit)).softmax(-1) - targets
    gradient = features.T @ excess * (scale / len(features))
    return (gradient - unit * (gradient * unit).sum(0)) / size


METHODS = (TaskRes(),)
