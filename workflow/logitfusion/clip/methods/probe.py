"""Linear probes: multinomial logistic regression on frozen features, and its sum with zero-shot CLIP."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logitfusion.clip.heads import LinearHead, Support

# Added to the bias of a class without an image, whose best bias is -infinity: finite, so that sums stay numbers.
_NEVER = -100.0


def fit_zero_shot(support: Support, settings: dict[str, Any], *, seed: int) -> LinearHead:
    """CLIP untouched: ``scale * clip @ classifier`` (Radford et al. 2021, arXiv 2103.00020)."""
    return LinearHead(support.scale * support.classifier, None, support.classifier.new_zeros(support.classes))


def fit_clip_probe(support: Support, settings: dict[str, Any], *, seed: int) -> LinearHead:
    """Logistic regression on CLIP's features (Radford et al. 2021, section 3.2)."""
    weight, bias = logistic_regression(*support.rows("clip", settings["views"]), support, settings)
    return LinearHead(weight, None, bias)


def fit_auxiliary_probe(support: Support, settings: dict[str, Any], *, seed: int) -> LinearHead:
    """Logistic regression on the auxiliary features: what the second encoder can do without CLIP."""
    weight, bias = logistic_regression(*support.rows("auxiliary", settings["views"]), support, settings)
    return LinearHead(None, weight, bias)


def fit_logit_sum(support: Support, settings: dict[str, Any], *, seed: int) -> LinearHead:
    """``zero-shot + alpha * auxiliary probe``: what fusion is worth without AMU's parts.

    With alpha = 1 the product of both models' probabilities, which is Bayes' rule for two encoders that are
    independent given the class, and classes equally likely.
    """
    weight, bias = logistic_regression(*support.rows("auxiliary", settings["views"]), support, settings)
    alpha = settings["alpha"]
    return LinearHead(support.scale * support.classifier, alpha * weight, alpha * bias)


def logistic_regression(
    features: Tensor, labels: Tensor, support: Support, settings: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Weight ``[D, C]`` and bias ``[C]`` of scikit-learn's deterministic L-BFGS in float64.

    The views of an image share its weight. A class without an image gets weight 0 and a bias 100 below the others, so
    it is never the answer.
    """
    views = len(labels) // len(support.labels)
    weight = features.new_zeros(features.shape[1], support.classes, dtype=torch.float64)
    bias = features.new_full((support.classes,), _NEVER, dtype=torch.float64)
    present = labels.unique()
    if len(present) == 1:
        bias[present] = 0.0
    else:
        model = LogisticRegression(C=settings["inverse_penalty"] / views, max_iter=settings["iterations"])
        model.fit(features.double().numpy(), labels.numpy())
        found, constant = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        if len(present) == 2:  # scikit-learn then gives one row, the log-odds of the second class
            found, constant = torch.cat([-found, found]) / 2.0, torch.cat([-constant, constant]) / 2.0
        weight[:, present] = found.T
        bias += constant.min()
        bias[present] = constant
    return weight.to(features.dtype), bias.to(features.dtype)
