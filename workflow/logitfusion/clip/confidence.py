"""How unsure CLIP is of an image: the factor that the auxiliary branch is multiplied by (arXiv 2404.08958)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitfusion.tensors import check_logits

_TINY, _HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
# The constants of the paper were found with the 1,000 classes of ImageNet.
PUBLISHED_CLASSES, PUBLISHED_REFERENCE, PUBLISHED_POWER = 1000, 250.0, 0.4


@torch.no_grad()
def uncertainty(
    clip_logits: Tensor,
    kind: str = "kurtosis",
    power: float = PUBLISHED_POWER,
    reference: float | str = PUBLISHED_REFERENCE,
) -> Tensor:
    """``(reference / confidence)^power``: large where CLIP is unsure, small where it is sure.

    Confidence of the softmax p over C classes, by ``kind``:

    * ``"kurtosis"`` (the paper): ``mean(((p - mean p) / std p)^4)``, std unbiased. It is between ``((C - 1) / C)^2``
      and, for a one-hot p, ``(C - 1)((C - 1)^3 + 1) / C^3``, about ``C - 4``. Logits that are all equal get the least.
      With two classes it is always 1/4, so without information.
    * the others measure a certainty q from 0 (uniform) to 1 (one-hot). The paper compares such kinds and does not say
      how they are scaled; here confidence goes from ``1 / C`` of the largest kurtosis (about 1, with many classes) to
      all of it, in proportion to q, so that reference and power keep their meaning: ``"entropy"`` ``1 - H(p) / ln C``;
      ``"max"`` ``(C max p - 1) / (C - 1)``; ``"max_min"`` ``max p - min p``; ``"var"`` the variance of p over that of a
      one-hot p; ``"top5"`` the mass of the five likeliest (at most C - 1) above its share in a uniform p; ``"energy"``
      ``E / (E + ln C)``, where E is how far the free energy ``logsumexp(s)`` is above that of a uniform softmax with
      the same mean logit, ``KL(uniform || p)``.
    * ``"none"``: the factor is 1.

    ``reference`` 250 belongs to C = 1000, where CLIP's largest kurtosis is 996: a certain CLIP has factor 0.575, and
    the factor is 1 where kurtosis is a quarter of its largest (four equally likely classes). With 10 classes the
    largest is 6.6, and the factor never falls below 4.3. ``"classes"`` keeps the *share of the largest kurtosis* at
    which the factor is 1: ``250 * largest(C) / largest(1000)``. Then a certain CLIP has factor 0.575 whatever C is. The
    other end, ``(0.251 largest(C) / least(C))^power``, is 1.3 at C = 10 and 9.1 at C = 1000: a range of kurtosis that
    fewer classes do not have can't be given back by a constant, only by a larger power.

    Args:
        clip_logits: ``[..., C]``, ``100 * cosine`` as CLIP gives it; any float type, -inf allowed.
        kind: one of ``KINDS``.
        power: the paper's rho; 0 gives 1 everywhere.
        reference: a positive number on kurtosis' scale, or ``"classes"``.

    Returns:
        ``[..., 1]``, fp32 (float64 for float64 logits), positive and finite for finite logits; no gradient.

    Raises:
        TypeError: logits that are no tensor of floating-point numbers.
        ValueError: an unknown kind or reference, a power whose factors fp32 can't hold, or fewer than two classes.
    """
    found = confidence(clip_logits, kind)
    if kind == "none":
        return found
    number = reference_of(reference, clip_logits.shape[-1])
    check_power(power, number, clip_logits.shape[-1])
    return (number / found) ** power


@torch.no_grad()
def confidence(clip_logits: Tensor, kind: str) -> Tensor:
    """What ``uncertainty`` divides by, see there: ``[..., C] -> [..., 1]``; 1 for ``"none"``."""
    check_logits(clip_logits=clip_logits)
    classes = clip_logits.shape[-1]
    if classes < 2:
        raise ValueError("uncertainty needs at least two classes")
    if kind not in KINDS:
        raise ValueError(f"kind is one of {tuple(KINDS)}, not {kind!r}")
    logits = clip_logits if clip_logits.dtype == torch.float64 else clip_logits.float()
    if kind == "none":
        return torch.ones_like(logits[..., :1])
    if kind == "kurtosis":
        return _kurtosis(logits)
    certainty = KINDS[kind](logits, classes).clamp(0.0, 1.0)
    return largest_kurtosis(classes) * (1.0 + certainty * (classes - 1)) / classes


def reference_of(reference: float | str, classes: int) -> float:
    """The reference as a number: ``"classes"`` is ``250 * largest_kurtosis(C) / largest_kurtosis(1000)``."""
    if reference == "classes":
        return PUBLISHED_REFERENCE * largest_kurtosis(classes) / largest_kurtosis(PUBLISHED_CLASSES)
    if isinstance(reference, str) or not 0 < reference < math.inf:
        raise ValueError(f'reference is a positive number or "classes", not {reference!r}')
    return float(reference)


def check_power(power: float, reference: float, classes: int) -> None:
    """Refuse a power whose factors leave fp32, at the least confidence or at the greatest.

    Raises:
        ValueError: it is such a one.
    """
    largest = largest_kurtosis(classes)
    least = min(((classes - 1) / classes) ** 2, largest / classes)
    try:
        factors = [(reference / confidence) ** power for confidence in (least, largest)]
    except OverflowError:
        factors = [math.inf]
    if not all(_TINY < factor < _HUGE for factor in factors):
        raise ValueError(f"power {power} makes factors of the reference {reference:g} that fp32 can't hold")


def largest_kurtosis(classes: int) -> float:
    """Kurtosis of a one-hot vector, with unbiased std: ``(C - 1)((C - 1)^3 + 1) / C^3``."""
    return (classes - 1) * ((classes - 1) ** 3 + 1) / classes**3


def _kurtosis(logits: Tensor) -> Tensor:
    classes = logits.shape[-1]
    # Kurtosis does not see the softmax's divisor, and expm1 keeps the digits of an almost uniform one.
    relative = torch.expm1(logits - logits.amax(-1, keepdim=True))
    centred = relative - relative.mean(-1, keepdim=True)
    # Divided by the largest, so that fourth powers stay in range; all equal gives 0 / 1.
    size = centred.abs().amax(-1, keepdim=True)
    squares = (centred / size.masked_fill(size == 0, 1.0)).square()
    variance = squares.sum(-1, keepdim=True) / (classes - 1)
    kurtosis = squares.square().mean(-1, keepdim=True) / variance.masked_fill(variance == 0, 1.0).square()
    return kurtosis.clamp_min(((classes - 1) / classes) ** 2)


def _entropy(logits: Tensor, classes: int) -> Tensor:
    return 1.0 - torch.special.entr(logits.softmax(-1)).sum(-1, keepdim=True) / math.log(classes)


def _energy(logits: Tensor, classes: int) -> Tensor:
    above = logits.logsumexp(-1, keepdim=True) - logits.mean(-1, keepdim=True)  # E + ln C
    return 1.0 - math.log(classes) / above


def _max(logits: Tensor, classes: int) -> Tensor:
    return (classes * logits.softmax(-1).amax(-1, keepdim=True) - 1.0) / (classes - 1)


def _max_min(logits: Tensor, classes: int) -> Tensor:
    probabilities = logits.softmax(-1)
    return probabilities.amax(-1, keepdim=True) - probabilities.amin(-1, keepdim=True)


def _var(logits: Tensor, classes: int) -> Tensor:
    return (classes * logits.softmax(-1).square().sum(-1, keepdim=True) - 1.0) / (classes - 1)


def _top5(logits: Tensor, classes: int) -> Tensor:
    count = min(5, classes - 1)
    mass = logits.softmax(-1).topk(count).values.sum(-1, keepdim=True)
    return (mass - count / classes) / (1.0 - count / classes)


KINDS = {
    "kurtosis": None,
    "entropy": _entropy,
    "energy": _energy,
    "max": _max,
    "max_min": _max_min,
    "var": _var,
    "top5": _top5,
    "none": None,
}
