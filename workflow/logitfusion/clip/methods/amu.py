"""AMU-Tuning: a second encoder's linear head gives CLIP a logit bias, weighted by CLIP's uncertainty (2404.08958).

``s = s0 + alpha u(s0) z``, where s0 are zero-shot logits, z the z-scored outputs of the head, and the loss is
``(1 - lambda) CE(z) + lambda CE(s)``. Both encoders are frozen, so training reads cached features only.

Derived here is a way out of the class-count trap. The z of a one-hot output are ``sqrt(C)`` apart, so CE(z) can't fall
below ``ln(1 + (C - 1) exp(-sqrt(C)))``: 0 with 1,000 classes, 0.32 with 10. With few classes the loss therefore never
ends, the head runs away from its good start, and can end up worse than untrained class means. ``temperature="classes"``
and ``reference="classes"`` give z and the uncertainty, with C classes, the range that they have with 1,000, so alpha
and lambda keep their published meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from logitfusion.clip.adamw import AdamW, one_thread
from logitfusion.clip.confidence import (
    PUBLISHED_CLASSES,
    PUBLISHED_POWER,
    PUBLISHED_REFERENCE,
    reference_of,
    uncertainty,
)
from logitfusion.clip.heads import LEAST_SPREAD, FusedHead, Support, class_means, fuse


class AMUHead(nn.Module):
    """The trainable part of AMU and its fusion, as a torch module (for training loops of one's own).

    Args:
        aux_features: ``[n, D_aux]``, unit norm. The weight ``[C, D_aux]`` starts as the mean of each class's features,
            not normalised; 0 for a class without an image.
        labels: ``[n]`` int64.
        num_classes: C, at least 2.
        alpha: weight of the bias; 0 is zero-shot CLIP.
        power, reference, kind: see ``logitfusion.clip.uncertainty``.
        temperature: multiplies z; a number, or ``"classes"``, see ``temperature_of``. 1 as published.

    Raises:
        ValueError: a name that is not known, or fewer than two classes.
    """

    def __init__(
        self,
        aux_features: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        alpha: float = 0.5,
        power: float = PUBLISHED_POWER,
        reference: float | str = PUBLISHED_REFERENCE,
        kind: str = "kurtosis",
        temperature: float | str = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(class_means(aux_features, labels, num_classes))
        self.power, self.reference, self.kind = power, reference_of(reference, num_classes), kind
        self.temperature = temperature_of(temperature, num_classes)
        self.alpha = alpha

    def forward(self, clip_logits: Tensor, aux_features: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., C]``, ``[..., D_aux]`` -> fused logits s and auxiliary logits z, both ``[..., C]``."""
        factor = self.alpha * uncertainty(clip_logits, self.kind, self.power, self.reference)
        return fuse(clip_logits, aux_features @ self.weight.T, factor, self.temperature)


def amu_loss(fused: Tensor, auxiliary: Tensor, labels: Tensor, share: float) -> Tensor:
    """``(1 - lambda) CE(z, y) + lambda CE(s, y)`` with lambda = ``share``; ``[B, C]`` twice and ``[B]`` -> scalar."""
    entropy = nn.functional.cross_entropy
    return (1.0 - share) * entropy(auxiliary, labels) + share * entropy(fused, labels)


def temperature_of(temperature: float | str, classes: int) -> float:
    """The temperature as a number: ``"classes"`` is ``sqrt(1000 / C)``.

    Then the scores of a one-hot output, ``sqrt(C)`` apart, are ``sqrt(1000) = 31.6`` apart whatever C is. 10 with 10
    classes, 3.2 with 100, 1 (as published) with 1,000.
    """
    if temperature == "classes":
        return math.sqrt(PUBLISHED_CLASSES / classes)
    if isinstance(temperature, str) or not 0 < temperature < math.inf:
        raise ValueError(f'temperature is a positive number or "classes", not {temperature!r}')
    return float(temperature)


# Powers of two a half apart: what CLIP's logits are multiplied by to be log-odds.
_CALIBRATIONS = tuple(2.0 ** (power / 2) for power in range(-16, 9))


def trust_in_clip(support: Support, settings: dict[str, Any]) -> dict[str, Any]:
    """The ``alpha`` and ``lambda`` of ``amu_classes`` where no class has two images, so that nothing can be held out.

    Nothing then tells how good the head is. But CLIP has not seen these images, so they are an honest, if small, test
    of CLIP: the factor b at which ``b s0`` has the least cross-entropy on them makes its logits log-odds. (Labels are
    smoothed by ``1 / (n + 1)``, as if one more image had all labels: n right answers are no proof of certainty.) On
    that scale the bias gets its published size, ``b s0 + alpha u t`` with scores t of spread 1, which is
    ``s0 + alpha / (b temperature) u z``. For a calibrated CLIP (b = 1) with 1,000 classes these are the published
    settings; a CLIP that is right by chance only (b near 0) leaves the answer to the head; multiplying CLIP's logits by
    a constant changes no answer but through u. The head learns from its own loss alone (lambda 0).
    """
    logits = support.zero_shot()[:, 0].double()
    doubt = 1.0 / (len(logits) + 1)
    calibration = min(
        _CALIBRATIONS,
        key=lambda b: float(nn.functional.cross_entropy(b * logits, support.labels, label_smoothing=doubt)),
    )
    temperature = temperature_of(settings["temperature"], support.classes)
    return {"alpha": settings["alpha"] / (calibration * temperature), "lambda": 0.0}


@one_thread()
def fit_amu(
    support: Support,
    candidates: Sequence[dict[str, Any]],
    *,
    seed: int,
    on_epoch: Callable[[int, FusedHead], None] | None = None,
) -> list[FusedHead]:
    """Train one head for each candidate setting on the same images in the same order.

    Candidates may differ in alpha, lambda, power, reference, kind and temperature; their heads are rows of one matrix,
    so that several cost little more than one, and each is what it would be alone. Where lambda is 0, training does not
    see alpha and the uncertainty, and candidates share a head.

    Args:
        candidates: of complete settings of ``methods.DEFAULTS["amu"]``.
        seed: of the order of images and the view of each, every epoch.
        on_epoch: called with the epoch (from 1) and the first candidate's head as it then is.

    Raises:
        ValueError: candidates that differ in something else, or a value that can't be.
        UserError: no auxiliary features, where the branch needs them.
    """
    free = {"lambda", "alpha", "power", "reference", "kind", "temperature", "selection", "folds"}
    if any(one.get(name) != candidates[0][name] for one in candidates for name in candidates[0].keys() - free):
        raise ValueError(f"candidates that are trained together differ in {', '.join(sorted(free))} only")
    chosen = [_with_numbers(settings, support.classes) for settings in candidates]
    trained: dict[tuple[Any, ...], dict[str, Any]] = {}
    places = []
    for settings in chosen:
        key = _what_training_sees(settings)
        trained.setdefault(key, settings)
        places.append(list(trained).index(key))

    def head(index: int, weights: Tensor) -> FusedHead:
        settings = chosen[index]
        return FusedHead(
            support.classifier,
            weights[places[index]].clone(),
            support.scale,
            **{name: settings[name] for name in ("alpha", "power", "reference", "kind", "temperature", "branch")},
        )

    for epoch, weights in enumerate(_train(support, list(trained.values()), seed=seed), 1):
        if on_epoch is not None:
            on_epoch(epoch, head(0, weights))
    return [head(index, weights) for index in range(len(chosen))]


def _with_numbers(settings: dict[str, Any], classes: int) -> dict[str, Any]:
    """The settings with what depends on C worked out, so that a saved head needs no rule."""
    return settings | {
        "temperature": temperature_of(settings["temperature"], classes),
        "reference": reference_of(settings["reference"], classes),
    }


def _what_training_sees(settings: dict[str, Any]) -> tuple[Any, ...]:
    names = ["lambda", "temperature"]
    if settings["lambda"] > 0:
        names += ["alpha", "power", "reference", "kind"]
    return tuple(settings[name] for name in names)


@torch.no_grad()
def _train(support: Support, candidates: list[dict[str, Any]], *, seed: int) -> Iterator[Tensor]:
    """Yield the weights ``[G, C, D]`` of G candidates after each epoch; the same tensor, which then goes on changing.

    The gradient is written out, because autograd's own work would be most of the time at this size. With o the outputs
    of one sample, d their spread, t their z-scores (z without temperature) and g the gradient with respect to t:
    ``dL/do = (g - mean(g) - t (g . t) / (C - 1)) / d``.
    """
    common = candidates[0]
    features = support.features(common["branch"])
    zero_shot = support.zero_shot()
    amounts = torch.cat(
        [
            settings["alpha"] * uncertainty(zero_shot, settings["kind"], settings["power"], settings["reference"])
            for settings in candidates
        ],
        -1,
    )  # [n, views, G]
    shares, temperatures = (
        features.new_tensor([settings[name] for settings in candidates])[:, None] for name in ("lambda", "temperature")
    )
    wanted = nn.functional.one_hot(support.labels, support.classes).to(features.dtype)
    count, classes = len(features), support.classes
    start = class_means(features[:, 0], support.labels, classes)
    weights = start.repeat(len(candidates), 1)  # [G C, D]
    batch, epochs = common["batch"], common["epochs"]
    optimizer = AdamW(
        weights,
        steps=epochs * math.ceil(count / batch),
        **{name: common[name] for name in ("learning_rate", "weight_decay", "epsilon")},
    )
    for order, view in schedule(count, features.shape[1], epochs, seed):
        parts = (features[order, view], zero_shot[order, view], amounts[order, view], wanted[order])
        for x, s0, amount, y in zip(*(part.split(batch) for part in parts), strict=True):
            outputs = (x @ weights.T).view(len(x), -1, classes)
            outputs -= outputs.mean(-1, keepdim=True)
            spread = (outputs.square().sum(-1, keepdim=True) / (classes - 1)).sqrt_().clamp_min_(LEAST_SPREAD)
            t = outputs.div_(spread)
            z = temperatures * t
            amount, y = amount[..., None], y[:, None]
            gradient = (1.0 - shares) * (z.softmax(-1) - y)
            gradient += shares * amount * ((s0[:, None] + amount * z).softmax(-1) - y)
            gradient *= temperatures
            gradient -= gradient.mean(-1, keepdim=True) + t * ((gradient * t).sum(-1, keepdim=True) / (classes - 1))
            gradient /= spread * len(x)
            optimizer.step(gradient.view(len(x), -1).T @ x)
        yield weights.view(len(candidates), classes, -1)


def schedule(count: int, views: int, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each epoch an order of the images and the view of each, ``[n]`` and ``[n]``, seeded.

    Views are drawn among the random augmentations; the plain view 0 is used only if it is the one there is.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        view = torch.randint(1, views, (count,), generator=generator) if views > 1 else torch.zeros_like(order)
        yield order, view
