"""Gaussian discriminant analysis on CLIP's features, with the zero-shot classifier (arXiv 2402.04087)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfusion.clip.methods.base import FewShotMethod, FewShotSettings, OnEpoch, Views
from logitfusion.config.section import NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from logitfusion.clip.heads import LinearHead, Support


class GDA(FewShotMethod):
    """Gaussian discriminant analysis on CLIP's features, with the zero-shot classifier (arXiv 2402.04087).

    ``scale * clip @ classifier + alpha (clip @ W + b)``: ``w_c = P m_c``, ``b_c = -m_c . P m_c / 2``, equal priors.
    ``m_c`` are class means and P the precision of ``discriminant``. A class without an image has W and b of 0, so only
    the zero-shot classifier scores it. The paper picks alpha on a validation set; here it is fixed, or selected on the
    support set.
    """

    class Settings(FewShotSettings):
        """The settings of ``gda``."""

        alpha: NonNegative = 1.0
        """Weight of the discriminant beside CLIP's logits; 0 is zero-shot CLIP."""
        views: Views = "all"
        """all views as rows of their own, or the plain one."""

    name = "gda"
    grid = tuple({"alpha": value} for value in (0.001, 0.01, 0.1, 1.0, 10.0))

    def fit(self, support: Support, settings: Settings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        from logitfusion.clip.heads import LinearHead

        weight, bias = discriminant(*support.rows("clip", settings.views), support.classes)
        return LinearHead(support.scale * support.classifier + settings.alpha * weight, None, settings.alpha * bias)

    def settings_of_part(self, settings: Settings, share: float) -> Settings:
        # P falls as 1 / N: beside CLIP's logits, the discriminant of half of the images is twice as large.
        return settings.changed({"alpha": settings.alpha * share})


def discriminant(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight ``[D, C]`` and bias ``[C]`` of GDA with the paper's ridge, worked out in float64.

    ``P = D ((N - 1) S + tr(S) I)^-1``, S the covariance of the N rows about their class means, over N - 1 (Kubokawa
    and Srivastava 2008). This is linear discriminant analysis with covariance shrunk to a multiple of I by
    ``D / (N - 1 + D)``, times ``D (1 - shrinkage) / N``. Rows that are all their class's mean (one shot, one view)
    have no S; the nearest mean decides then, with P a multiple of I that the spread of all rows gives.
    """
    import torch

    from logitfusion.clip.heads import class_means

    rows = features.double()
    count, width = rows.shape
    means = class_means(rows, labels, classes)
    centred = rows - means[labels]
    if centred.square().sum() <= 1e-12 * rows.square().sum():
        spread = (rows - rows.mean(0)).square().sum() / count
        precise = width / spread.clamp_min(1e-6) * means
    else:
        scatter = centred.T @ centred
        ridge = scatter.trace() / max(count - 1, 1)
        scatter.diagonal().add_(ridge)
        precise = width * torch.cholesky_solve(means.T, torch.linalg.cholesky(scatter)).T
    bias = -(means * precise).sum(1) / 2.0
    return precise.T.to(features.dtype), bias.to(features.dtype)


METHODS = (GDA(),)
