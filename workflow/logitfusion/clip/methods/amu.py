"""AMU-Tuning: a second encoder's linear head gives CLIP a logit bias, weighted by CLIP's uncertainty (2404.08958).

``s = s0 + alpha u(s0) z``, where s0 are zero-shot logits, z the z-scored outputs of the head, and the loss is
``(1 - lambda) CE(z) + lambda CE(s)``. Both encoders are frozen, so training reads cached features only.

Derived here is a way out of the class-count trap. The z of a one-hot output are ``sqrt(C)`` apart, so CE(z) can't fall
below ``ln(1 + (C - 1) exp(-sqrt(C)))``: 0 with 1,000 classes, 0.32 with 10. With few classes the loss therefore never
ends, the head runs away from its good start, and can end up worse than untrained class means. ``temperature="classes"``
and ``reference="classes"`` give z and the uncertainty, with C classes, the range that they have with 1,000, so alpha
and lambda keep their published meaning.

With two classes the published head does not learn at all: z is +-1/sqrt(2), whatever the outputs are, so no output has
a gradient. ``spread="mixed"`` divides by the support's mean spread there, and by the sample's own with many classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from logitfusion.clip.methods.base import AdamWSettings, FewShotMethod, OnEpoch
from logitfusion.config.section import NonNegative, Positive, Share
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from logitfusion.clip.heads import FusedHead, Support


class AMUSettings(AdamWSettings.having(epochs=50, batch=8)):
    """The settings of AMU."""

    alpha: NonNegative = 0.5
    """Weight of the auxiliary branch's bias; 0 is zero-shot CLIP."""
    lambda_: Share = Field(default=0.35, alias="lambda")
    """Share of the fused logits' cross-entropy in the loss; the rest is the auxiliary logits' own."""
    power: NonNegative = 0.4
    """The paper's rho, the exponent of the uncertainty; 0 weights all images alike."""
    reference: Positive | Literal["classes"] = 250.0
    """Kurtosis at which the uncertainty is 1; classes: the paper's, carried over from 1,000 classes to C."""
    kind: Literal["kurtosis", "entropy", "energy", "max", "max_min", "var", "top5", "none"] = "kurtosis"
    """Confidence that the uncertainty is made of, see ``logitfusion.clip.uncertainty``; none: the factor is 1."""
    temperature: Positive | Literal["classes"] = 1.0
    """Multiplies z; classes: sqrt(1000 / C), 1 as published for 1,000 classes."""
    branch: Literal["auxiliary", "clip"] = "auxiliary"
    """Encoder whose features the trained head reads."""
    spread: Literal["sample", "mixed"] = "sample"
    """What divides an image's outputs: their own spread; mixed: with two classes the support's, with many their own."""
    counts: Literal["own", "mean"] = "own"
    """What a class's sum of features is divided by at first: its own images, or (released code) the classes' mean."""


class AMU(FewShotMethod):
    """AMU-Tuning: a linear head on a second encoder gives CLIP a bias, weighted by CLIP's uncertainty (2404.08958)."""

    name = "amu"
    Settings = AMUSettings
    needs_auxiliary = True
    by_epochs = True
    family = "parts"

    def fit(self, support: Support, settings: AMUSettings, *, seed: int, on_epoch: OnEpoch = None) -> FusedHead:
        return fit_amu(support, [settings], seed=seed, on_epoch=on_epoch)[0]

    def fit_all(self, support: Support, candidates: Sequence[AMUSettings], *, seed: int) -> list[FusedHead]:
        return fit_amu(support, candidates, seed=seed)

    def reads_auxiliary(self, settings: AMUSettings) -> bool:
        return settings.branch == "auxiliary"

    def caution(self, settings: AMUSettings, classes: int) -> str | None:
        if classes > 2 or settings.spread == "mixed":
            return None
        return (
            f"{self.name} can't learn from two classes: standardised outputs of two classes have one size, so its head"
            " stays at the class means, and its bias is equally strong for all images. amu_classes does learn"
            " (spread: mixed)."
        )


class AMUNoA(AMU):
    """AMU without the auxiliary encoder (A): its head reads CLIP's own features."""

    name, family, needs_auxiliary = "amu_no_a", "ablation", False
    Settings = AMUSettings.having(branch="clip")


class AMUNoM(AMU):
    """AMU without the multi-branch loss (M): the fused logits' cross-entropy alone trains the head."""

    name, family = "amu_no_m", "ablation"
    Settings = AMUSettings.having(lambda_=1.0)


class AMUNoU(AMU):
    """AMU without the uncertainty (U): the bias has one weight for all images."""

    name, family = "amu_no_u", "ablation"
    Settings = AMUSettings.having(kind="none")


class AMUClasses(AMU):
    """AMU for any number of classes, two included: ranges carried over from 1,000 classes, weights chosen.

    Cross-validation searches from zero-shot CLIP alone (alpha 0) to the auxiliary head alone (alpha 16). With lambda 0
    all candidates share one training.
    """

    name = "amu_classes"
    Settings = AMUSettings.having(
        reference="classes", temperature="classes", spread="mixed", selection="cross_validation"
    )
    grid = tuple(
        {"lambda": 0.0, "alpha": alpha, "power": power}
        for alpha, power in product((0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 16.0), (0.0, 0.4, 0.8))
    ) + tuple({"lambda": 0.35, "alpha": alpha, "power": 0.4} for alpha in (0.125, 0.25, 0.5, 1.0))

    def fallback(self, support: Support, settings: AMUSettings) -> AMUSettings:
        return settings.changed(trust_in_clip(support, settings))


METHODS = (AMU(), AMUNoA(), AMUNoM(), AMUNoU(), AMUClasses())


def temperature_of(temperature: float | str, classes: int) -> float:
    """The temperature as a number: ``"classes"`` is ``sqrt(1000 / C)``.

    Then the scores of a one-hot output, ``sqrt(C)`` apart, are ``sqrt(1000) = 31.6`` apart whatever C is. 10 with 10
    classes, 3.2 with 100, 1 (as published) with 1,000.

    Raises:
        ValueError: another word, or a number that is not positive and finite.
    """
    from logitfusion.clip.confidence import PUBLISHED_CLASSES

    if temperature == "classes":
        return math.sqrt(PUBLISHED_CLASSES / classes)
    if isinstance(temperature, str) or not 0 < temperature < math.inf:
        raise ValueError(f'temperature is a positive number or "classes", not {temperature!r}')
    return float(temperature)


def mixing_of(spread: str, classes: int) -> float:
    """The share g of the support's mean square spread in what divides the outputs of one image.

    ``"sample"`` is 0, the published z-score. ``"mixed"`` is ``(C - 1)^-3``: 1 with two classes, where the outputs'
    direction has one dimension and their size is all that there is to learn, 1/8 with three, .001 with ten.

    Raises:
        ValueError: another word.
    """
    if spread not in ("sample", "mixed"):
        raise ValueError(f'spread is "sample" or "mixed", not {spread!r}')
    return 0.0 if spread == "sample" else (classes - 1.0) ** -3


# Powers of two a half apart: what CLIP's logits are multiplied by to be log-odds.
_CALIBRATIONS = tuple(2.0 ** (power / 2) for power in range(-16, 9))


def trust_in_clip(support: Support, settings: AMUSettings) -> dict[str, float]:
    """The ``alpha`` and ``lambda`` of ``amu_classes`` where no class has two images, so that nothing can be held out.

    Nothing then measures how good the head is. But CLIP has not seen these images, so they are an honest, if small,
    test of CLIP: the factor b at which ``b s0`` has the least cross-entropy on them makes its logits log-odds. (Labels
    are smoothed by ``1 / (n + 1)``, as if one more image had all labels: n right answers are no proof of certainty.) On
    that scale the bias gets its published size, ``b s0 + alpha u t`` with scores t of spread 1, which is
    ``s0 + alpha / (b temperature) u z``. For a calibrated CLIP (b = 1) with 1,000 classes these are the published
    settings; a CLIP that is right by chance only (b near 0) leaves the answer to the head; multiplying CLIP's logits by
    a constant changes no answer but through u. The head learns from its own loss alone (lambda 0).
    """
    from torch.nn.functional import cross_entropy

    logits = support.zero_shot()[:, 0].double()
    doubt = 1.0 / (len(logits) + 1)
    calibration = min(
        _CALIBRATIONS, key=lambda b: float(cross_entropy(b * logits, support.labels, label_smoothing=doubt))
    )
    temperature = temperature_of(settings.temperature, support.classes)
    return {"alpha": settings.alpha / (calibration * temperature), "lambda": 0.0}


# What candidates that are trained together may differ in.
_FREE = {"lambda_", "alpha", "power", "reference", "kind", "temperature", "selection", "folds"}


def fit_amu(
    support: Support, candidates: Sequence[AMUSettings], *, seed: int, on_epoch: OnEpoch = None
) -> list[FusedHead]:
    """Train one head for each candidate on the same images in the same order.

    Candidates may differ in alpha, lambda, power, reference, kind and temperature; their heads are rows of one matrix,
    so that several cost little more than one, and each is what it would be alone. Where lambda is 0, training does not
    see alpha and the uncertainty, and candidates share a head.

    Args:
        seed: of the order of images and the view of each, every epoch.
        on_epoch: called with the epoch (from 1) and the first candidate's head as it then is.

    Raises:
        ValueError: candidates that differ in something else.
        UserError: no auxiliary features, where the branch needs them.
    """
    import torch

    from logitfusion.clip.heads import FusedHead, class_means, support_spread
    from logitfusion.clip.methods.adamw import one_thread

    if len({one.model_dump_json(exclude=_FREE) for one in candidates}) > 1:
        raise ValueError("candidates that are trained together differ in alpha, lambda and the uncertainty only")
    chosen = [_with_numbers(settings, support.classes) for settings in candidates]
    keys = [_what_training_sees(settings) for settings in chosen]
    trained: dict[tuple[Any, ...], AMUSettings] = {}
    for key, settings in zip(keys, chosen, strict=True):
        trained.setdefault(key, settings)
    places = [list(trained).index(key) for key in keys]
    plain = support.features(chosen[0].branch)[:, 0]
    start = class_means(plain, support.labels, support.classes, counts=chosen[0].counts)
    divisor = {"mixing": mixing_of(chosen[0].spread, support.classes), "support_spread": support_spread(plain, start)}

    def head(index: int, weights: Tensor) -> FusedHead:
        values = chosen[index].model_dump(include={"alpha", "power", "reference", "kind", "temperature", "branch"})
        return FusedHead(support.classifier, weights[places[index]].clone(), support.scale, **values, **divisor)

    with one_thread(), torch.no_grad():
        for epoch, weights in enumerate(_train(support, list(trained.values()), start, **divisor, seed=seed), 1):
            if on_epoch is not None:
                on_epoch(epoch, head(0, weights))
        return [head(index, weights) for index in range(len(chosen))]


def _with_numbers(settings: AMUSettings, classes: int) -> AMUSettings:
    """The settings with what depends on C worked out, so that a saved head needs no rule.

    Raises:
        UserError: factors that no number holds.
    """
    from logitfusion.clip.confidence import check_power, reference_of

    reference = reference_of(settings.reference, classes)
    try:
        check_power(settings.power, reference, classes)
    except ValueError as error:
        raise UserError(f"AMU: {error}; change its power or its reference.") from None
    return settings.changed({"temperature": temperature_of(settings.temperature, classes), "reference": reference})


def _what_training_sees(settings: AMUSettings) -> tuple[Any, ...]:
    seen = (settings.lambda_, settings.temperature)
    if settings.lambda_ > 0:
        seen += (settings.alpha, settings.power, settings.reference, settings.kind)
    return seen


# Steps from one word on how far it is to the next.
_STEPS_TOLD = 100


def _train(
    support: Support,
    candidates: Sequence[AMUSettings],
    start: Tensor,
    *,
    mixing: float,
    support_spread: float,
    seed: int,
) -> Iterator[Tensor]:
    """Yield the weights ``[G, C, D]`` of G candidates after each epoch; the same tensor, which then goes on changing.

    They start at ``start``, ``[C, D]``. The gradient is written out, because autograd's own work would be most of the
    time at this size. With o the outputs of one sample, d what divides them, t the quotients (z without temperature), m
    the mixing and g the gradient with respect to t: ``dL/do = (g - mean(g) - (1 - m) t (g . t) / (C - 1)) / d``.
    """
    import torch
    from torch.nn.functional import one_hot

    from logitfusion.clip.confidence import uncertainty
    from logitfusion.clip.heads import LEAST_SPREAD, spread_squared
    from logitfusion.clip.methods.adamw import AdamW, schedule, split
    from logitfusion.clip.methods.progress import tell

    common = candidates[0]
    features, zero_shot = support.features(common.branch), support.zero_shot()
    factors = [one.alpha * uncertainty(zero_shot, one.kind, one.power, one.reference) for one in candidates]
    amounts = torch.cat(factors, -1)  # [n, views, G]
    shares = features.new_tensor([one.lambda_ for one in candidates])[:, None]
    temperatures = features.new_tensor([one.temperature for one in candidates])[:, None]
    count, classes = len(features), support.classes
    targets = one_hot(support.labels, classes).to(features.dtype)
    weights = start.repeat(len(candidates), 1)  # [G C, D]
    optimizer = AdamW.of(weights, common, count=count)
    for epoch, (order, view) in enumerate(schedule(count, features.shape[1], common.epochs, seed)):
        parts = (features[order, view], zero_shot[order, view], amounts[order, view], targets[order])
        for step, (x, s0, amount, y) in enumerate(split(parts, common.batch)):
            if step % _STEPS_TOLD == 0:
                tell(epoch + step * common.batch / count, common.epochs)
            outputs = (x @ weights.T).view(len(x), -1, classes)
            outputs -= outputs.mean(-1, keepdim=True)
            variance = (1.0 - mixing) * spread_squared(outputs) + mixing * support_spread**2
            spread = variance.sqrt_().clamp_min_(LEAST_SPREAD)
            t = outputs.div_(spread)
            z = temperatures * t
            amount, y = amount[..., None], y[:, None]
            gradient = (1.0 - shares) * (z.softmax(-1) - y)
            gradient += shares * amount * ((s0[:, None] + amount * z).softmax(-1) - y)
            gradient *= temperatures
            along = (1.0 - mixing) / (classes - 1) * (gradient * t).sum(-1, keepdim=True)
            gradient -= gradient.mean(-1, keepdim=True) + t * along
            gradient /= spread * len(x)
            optimizer.step(gradient.view(len(x), -1).T @ x)
        tell(epoch + 1, common.epochs)
        yield weights.view(len(candidates), classes, -1)
