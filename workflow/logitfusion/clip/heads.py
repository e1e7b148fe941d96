"""What a few-shot method learns from, and what it gives: a head that turns features into logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from logitfusion.clip.confidence import uncertainty
from logitfusion.errors import UserError
from logitfusion.tensors import check_count, check_floats, check_int64, check_one_device, is_finite

_MOST_CLASSES = 2**24  # hundreds of times what any data set has


@dataclass(frozen=True)
class Support:
    """The few labelled images, as cached features: all that a method may learn from.

    Attributes:
        clip: ``[n, views, D]`` fp32, unit norm; view 0 is the plain one, the others are random augmentations.
        auxiliary: ``[n, views, D_aux]`` of the same views, unit norm, or None. Several encoders: concatenated and
            normalised again.
        labels: ``[n]`` int64, from 0 to C - 1. Classes may have unlike numbers of images, or none.
        classifier: ``[D, C]``, the zero-shot classifier, unit-norm columns (open_clip's shape).
        scale: ``exp(logit_scale)`` of this CLIP, a number or a tensor of one.
        groups: ``[n]`` int64, equal for images of equal content, which are held out together; None: all are unlike.

    Raises:
        TypeError: features that are no tensors of floating-point numbers, labels or groups that are not int64.
        ValueError: shapes, types or devices that do not fit together, fewer than two classes, no image, numbers that
            are not finite.
    """

    clip: Tensor
    auxiliary: Tensor | None
    labels: Tensor
    classifier: Tensor
    scale: float = 100.0
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        check_floats(clip=self.clip, auxiliary=self.auxiliary, classifier=self.classifier)
        check_int64(labels=self.labels, groups=self.groups)
        if self.clip.ndim != 3 or 0 in self.clip.shape or self.labels.shape != self.clip.shape[:1]:
            raise ValueError(
                f"clip is [n, views, D] and labels [n], not {tuple(self.clip.shape)} and {tuple(self.labels.shape)}"
            )
        if self.groups is not None and self.groups.shape != self.labels.shape:
            raise ValueError(f"groups is [n] = {tuple(self.labels.shape)}, not {tuple(self.groups.shape)}")
        if self.auxiliary is not None and (
            self.auxiliary.shape[:-1] != self.clip.shape[:-1] or not self.auxiliary.shape[-1]
        ):
            raise ValueError(
                f"auxiliary is [n, views, D_aux] with the {tuple(self.clip.shape[:-1])} of clip, not"
                f" {tuple(self.auxiliary.shape)}"
            )
        if self.classifier.ndim != 2 or len(self.classifier) != self.clip.shape[-1] or self.classes < 2:
            raise ValueError(
                f"classifier is [D, C] with D = {self.clip.shape[-1]} and C >= 2, not {tuple(self.classifier.shape)}"
            )
        given = {"clip": self.clip, "auxiliary": self.auxiliary, "classifier": self.classifier}
        given = {name: part for name, part in given.items() if part is not None}
        if len({part.dtype for part in given.values()}) > 1 or self.clip.dtype not in (torch.float32, torch.float64):
            raise ValueError("features and classifier are all fp32 (or all float64): convert what was cached as half")
        if broken := [name for name, part in given.items() if not is_finite(part)]:
            raise ValueError(f"{' and '.join(broken)} hold NaN or infinity")
        # exp(logit_scale) is a tensor that learns in most CLIPs.
        scale = self.scale.item() if isinstance(self.scale, Tensor) else float(self.scale)
        object.__setattr__(self, "scale", scale)
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is a positive number, not {self.scale}")
        check_one_device(**given, labels=self.labels, groups=self.groups)
        _check_labels(self.labels, self.classes)

    @property
    def classes(self) -> int:
        return self.classifier.shape[1]

    def at(self, indices: Tensor) -> Support:
        """The part with these images."""
        auxiliary = None if self.auxiliary is None else self.auxiliary[indices]
        groups = None if self.groups is None else self.groups[indices]
        return replace(self, clip=self.clip[indices], auxiliary=auxiliary, labels=self.labels[indices], groups=groups)

    def features(self, branch: str) -> Tensor:
        """``[n, views, D]`` of ``"clip"`` or ``"auxiliary"``; a ``UserError`` where there are no auxiliary ones."""
        return _present(self.clip if branch == "clip" else self.auxiliary)

    @property
    def plain(self) -> tuple[Tensor, Tensor | None]:
        """The plain view's features, ``[n, D]`` and ``[n, D_aux]`` (or None): what a head's ``logits`` reads."""
        return self.clip[:, 0], None if self.auxiliary is None else self.auxiliary[:, 0]

    def zero_shot(self) -> Tensor:
        """Zero-shot logits of every view, ``[n, views, C]``."""
        return self.clip @ (self.scale * self.classifier)

    def rows(self, branch: str, views: str) -> tuple[Tensor, Tensor]:
        """Features ``[N, D]`` and labels ``[N]`` of the ``"plain"`` view or of ``"all"``, as rows of their own."""
        features = self.features(branch)
        if views == "plain":
            return features[:, 0], self.labels
        if views != "all":
            raise UserError(f'views is "plain" or "all", not {views!r}: change it in the settings.')
        return features.flatten(0, 1), self.labels.repeat_interleave(features.shape[1])


def check_labelled(features: Tensor, labels: Tensor, classes: int) -> None:
    """Refuse features ``[n, D]`` and labels ``[n]`` that don't fit together.

    Raises:
        TypeError: features that are no floating-point numbers, labels that are not int64, no whole number of classes.
        ValueError: other shapes, several devices, labels beyond the classes, or fewer than two of these.
    """
    check_floats(features=features)
    check_int64(labels=labels)
    check_count("the number of classes", classes, 2, _MOST_CLASSES)
    if features.ndim != 2 or 0 in features.shape or labels.shape != features.shape[:1]:
        raise ValueError(f"features are [n, D] and labels [n], not {tuple(features.shape)} and {tuple(labels.shape)}")
    check_one_device(features=features, labels=labels)
    _check_labels(labels, classes)


def check_features(name: str, given: Tensor, width: int) -> None:
    """Refuse what are no features or logits ``[..., width]`` of images.

    Raises:
        TypeError: they are no tensor of floating-point numbers; ``name`` is the argument's.
        ValueError: they have another width.
    """
    check_floats(**{name: given})
    if given.ndim == 0 or given.shape[-1] != width:
        raise ValueError(f"{name} is [..., {width}], not {tuple(given.shape)}")


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels are from 0 to {classes - 1}")


def class_means(features: Tensor, labels: Tensor, classes: int, *, counts: str = "own") -> Tensor:
    """``[n, D]`` and ``[n]`` -> ``[C, D]``, not normalised; 0 for a class without a row.

    Args:
        counts: ``"own"`` divides a class's sum by its rows, ``"mean"`` all sums by the rows of a class on average.
    """
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    if counts == "mean":
        return sums / (len(labels) / classes)
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


@dataclass(frozen=True)
class _Head:
    """What every head carries: the method's name and everything that was set or selected."""

    method: str = field(default="", kw_only=True)
    settings: dict[str, Any] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class LinearHead(_Head):
    """``clip @ clip_weight + auxiliary @ auxiliary_weight + bias``: ``[D, C]``, ``[D_aux, C]``, ``[C]``."""

    clip_weight: Tensor | None
    auxiliary_weight: Tensor | None
    bias: Tensor

    def __post_init__(self) -> None:
        _need("bias", self.bias, (self.classes,))
        for name, weight in (("clip_weight", self.clip_weight), ("auxiliary_weight", self.auxiliary_weight)):
            if weight is not None:
                _need(name, weight, (None, self.classes), self.bias.dtype)

    @property
    def classes(self) -> int:
        return self.bias.shape[-1] if self.bias.ndim else 0

    def logits(self, clip: Tensor, auxiliary: Tensor | None = None) -> Tensor:
        """``[m, D]``, ``[m, D_aux]`` -> ``[m, C]`` fp32 (float64 for float64 weights)."""
        logits = self.bias
        if self.clip_weight is not None:
            logits = logits + _of(self.clip_weight, "clip", clip) @ self.clip_weight
        if self.auxiliary_weight is not None:
            logits = logits + _of(self.auxiliary_weight, "auxiliary", _present(auxiliary)) @ self.auxiliary_weight
        return logits


@dataclass(frozen=True)
class CacheHead(_Head):
    """Tip-Adapter: ``scale * clip @ classifier + alpha * exp(-beta (1 - clip @ keys^T)) @ onehot(key_labels)``."""

    classifier: Tensor  # [D, C]
    keys: Tensor  # [n, D]
    key_labels: Tensor  # [n] int64
    scale: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        _need("classifier", self.classifier, (None, None))
        _need("keys", self.keys, (None, len(self.classifier)), self.classifier.dtype)
        if self.key_labels.shape != self.keys.shape[:1] or self.key_labels.dtype != torch.int64:
            raise ValueError(f"key_labels is int64 [{len(self.keys)}], not {list(self.key_labels.shape)}")
        if len(self.key_labels) and not 0 <= int(self.key_labels.min()) <= int(self.key_labels.max()) < self.classes:
            raise ValueError(f"key_labels are from 0 to {self.classes - 1}")

    @property
    def classes(self) -> int:
        return self.classifier.shape[1]

    def logits(self, clip: Tensor, auxiliary: Tensor | None = None) -> Tensor:
        """``[m, D]`` -> ``[m, C]`` fp32 (float64 for float64 keys); auxiliary features play no part."""
        clip = _of(self.classifier, "clip", clip)
        near = torch.exp(self.beta * (clip @ self.keys.T - 1.0))
        return (clip @ (self.scale * self.classifier)).index_add(1, self.key_labels, near, alpha=self.alpha)


@dataclass(frozen=True)
class FusedHead(_Head):
    """AMU: zero-shot logits with the weighted bias of a linear head on a second feature, see ``fuse``."""

    classifier: Tensor  # [D, C]
    weight: Tensor  # [C, D_aux], or [C, D] where the branch is CLIP's own
    scale: float
    alpha: float
    power: float
    reference: float | str
    kind: str = "kurtosis"
    temperature: float = 1.0
    branch: str = "auxiliary"
    mixing: float = 0.0
    support_spread: float = 0.0

    def __post_init__(self) -> None:
        _need("classifier", self.classifier, (None, None))
        read = len(self.classifier) if self.branch == "clip" else None
        _need("weight", self.weight, (self.classes, read), self.classifier.dtype)
        if self.branch not in ("clip", "auxiliary"):
            raise ValueError(f"branch is clip or auxiliary, not {self.branch!r}")

    @property
    def classes(self) -> int:
        return self.classifier.shape[1]

    def logits(self, clip: Tensor, auxiliary: Tensor | None = None) -> Tensor:
        """``[m, D]``, ``[m, D_aux]`` -> ``[m, C]`` fp32 (float64 for float64 weights)."""
        clip = _of(self.classifier, "clip", clip)
        features = clip if self.branch == "clip" else _of(self.weight.T, "auxiliary", _present(auxiliary))
        zero_shot = clip @ (self.scale * self.classifier)
        factor = self.alpha * uncertainty(zero_shot, self.kind, self.power, self.reference)
        outputs = features @ self.weight.T
        return fuse(zero_shot, outputs, factor, self.temperature, self.mixing, self.support_spread)[0]


Head = LinearHead | CacheHead | FusedHead

# Spreads over classes below this are rounding: features have unit norm, so a head's outputs are of size 1.
LEAST_SPREAD = 1e-6


def fuse(
    clip_logits: Tensor,
    outputs: Tensor,
    factor: Tensor | float,
    temperature: float,
    mixing: float = 0.0,
    support_spread: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """``s = s0 + factor * z`` and ``z``, the outputs' distances from their mean over classes, each divided by
    ``sqrt((1 - mixing) d^2 + mixing support_spread^2)``, times the temperature; d is their own std (unbiased).

    All are ``[..., C]``, factor ``[..., 1]``. Outputs that are all equal give z = 0. With mixing 0, as published, z is
    the z-score.
    """
    centred = outputs - outputs.mean(-1, keepdim=True)
    variance = (1.0 - mixing) * spread_squared(centred) + mixing * support_spread**2
    scores = temperature * centred / variance.sqrt().clamp_min(LEAST_SPREAD)
    return clip_logits + factor * scores, scores


def spread_squared(centred: Tensor) -> Tensor:
    """Unbiased variance over classes of outputs whose mean has been subtracted: ``[..., C] -> [..., 1]``."""
    return centred.square().sum(-1, keepdim=True) / (centred.shape[-1] - 1)


def support_spread(features: Tensor, weight: Tensor) -> float:
    """The root mean square, over images, of the spread over classes of a head's outputs: ``[n, D]``, ``[C, D]``."""
    return float((features @ weight.T).var(-1).mean().sqrt())


def _need(name: str, value: Tensor, shape: tuple[int | None, ...], dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor of a head that has another shape (None: any) or type, or is no matrix of numbers at all."""
    fits = value.ndim == len(shape) and all(
        want in (None, size) for want, size in zip(shape, value.shape, strict=False)
    )
    if not fits or not value.is_floating_point() or dtype not in (None, value.dtype) or 0 in value.shape:
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        given = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        raise ValueError(f"{name} is [{wanted}] of the other weights' type, not {given}")


def _of(weight: Tensor, name: str, features: Tensor) -> Tensor:
    """Features ``[..., D]`` for a weight ``[D, C]``, in its type."""
    check_features(name, features, len(weight))
    check_one_device(**{name: features, "the head": weight})
    return features.to(weight.dtype)


def _present(auxiliary: Tensor | None) -> Tensor:
    if auxiliary is None:
        raise UserError("This method needs auxiliary features: name an auxiliary encoder in the config.")
    return auxiliary
