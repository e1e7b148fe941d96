"""Linear probes: multinomial logistic regression on frozen features, and its sum with zero-shot CLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfusion.clip.methods.base import FewShotMethod, FewShotSettings, OnEpoch, Passes, Penalty, Views
from logitfusion.config.section import NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from logitfusion.clip.heads import LinearHead, Support


class ProbeSettings(FewShotSettings):
    """The settings of a logistic regression."""

    # 31.6: the 0.316 of CLIP's published probe, whose features have a norm of about 10; ours have 1.
    inverse_penalty: Penalty = 31.6
    """scikit-learn's C: the loss of an image, relative to half the squared norm of the weights."""
    iterations: Passes = 1000
    """Of L-BFGS, at most."""
    views: Views = "all"
    """all (an image's views share its weight), or the plain one."""


_PENALTIES = tuple({"inverse_penalty": value} for value in (1.0, 10.0, 31.6, 100.0, 1000.0))


class ClipProbe(FewShotMethod):
    """Logistic regression on CLIP's features (Radford et al. 2021, arXiv 2103.00020, section 3.2)."""

    name = "clip_probe"
    Settings = ProbeSettings
    grid = _PENALTIES

    def fit(self, support: Support, settings: ProbeSettings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        from logitfusion.clip.heads import LinearHead

        weight, bias = logistic_regression("clip", support, settings)
        return LinearHead(weight, None, bias)


class AuxiliaryProbe(FewShotMethod):
    """Logistic regression on the auxiliary features: what the second encoder can do without CLIP."""

    name = "auxiliary_probe"
    Settings = ProbeSettings
    grid = _PENALTIES
    needs_auxiliary = True
    family = "parts"

    def fit(self, support: Support, settings: ProbeSettings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        from logitfusion.clip.heads import LinearHead

        weight, bias = logistic_regression("auxiliary", support, settings)
        return LinearHead(None, weight, bias)


class LogitSum(FewShotMethod):
    """``zero-shot + alpha * auxiliary probe``: what fusion is worth without AMU's parts.

    With alpha = 1 the product of both models' probabilities, which is Bayes' rule for two encoders that are
    independent given the class, and classes equally likely.
    """

    class Settings(ProbeSettings):
        """The settings of ``logit_sum``."""

        alpha: NonNegative = 1.0
        """Weight of the probe's logits; 0 is zero-shot CLIP."""

    name = "logit_sum"
    grid = tuple({"alpha": value} for value in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0))
    needs_auxiliary = True
    family = "parts"

    def fit(self, support: Support, settings: Settings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        from logitfusion.clip.heads import LinearHead

        weight, bias = logistic_regression("auxiliary", support, settings)
        return LinearHead(support.scale * support.classifier, settings.alpha * weight, settings.alpha * bias)


def logistic_regression(branch: str, support: Support, settings: ProbeSettings) -> tuple[Tensor, Tensor]:
    """Weight ``[D, C]`` and bias ``[C]`` of scikit-learn's deterministic L-BFGS in float64.

    The views of an image share its weight. A class without an image gets weight 0 and a bias 100 below the others, so
    it is never the answer.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    features, labels = support.rows(branch, settings.views)
    views = len(labels) // len(support.labels)
    weight = features.new_zeros(features.shape[1], support.classes, dtype=torch.float64)
    bias = features.new_full((support.classes,), _NEVER, dtype=torch.float64)
    present = labels.unique()
    if len(present) == 1:
        bias[present] = 0.0
    else:
        model = LogisticRegression(C=settings.inverse_penalty / views, max_iter=settings.iterations)
        model.fit(features.double().numpy(), labels.numpy())
        found, constant = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        if len(present) == 2:  # scikit-learn then gives one row, the log-odds of the second class
            found, constant = torch.cat([-found, found]) / 2.0, torch.cat([-constant, constant]) / 2.0
        weight[:, present] = found.T
        bias += constant.min()
        bias[present] = constant
    return weight.to(features.dtype), bias.to(features.dtype)


# Added to the bias of a class without an image, whose best bias is -infinity: finite, so that sums stay numbers.
_NEVER = -100.0

METHODS = (ClipProbe(), AuxiliaryProbe(), LogitSum())
