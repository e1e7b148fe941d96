"""Stacking: zero-shot CLIP and a probe of each encoder, weighted by how they predict left-out support images."""

from __future__ import annotations

from itertools import count, product
from typing import TYPE_CHECKING

from logitfusion.clip.methods.base import FewShotMethod, FewShotSettings, OnEpoch, Passes, Penalty
from logitfusion.config.section import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from logitfusion.clip.heads import LinearHead, Support


class Stacking(FewShotMethod):
    """Stacking: CLIP and a probe of each encoder, weighted by how they predict left-out images (Wolpert 1992).

    A logarithmic opinion pool, ``b s0 + v p + w q``: zero-shot logits s0, logits p of a logistic regression on CLIP's
    features, and q of one on the auxiliary's, if there is one. No part is taken on trust: the probes' logits of a
    support image come from a regression without it (``folds``), CLIP has seen none of them anyway. The weights have the
    least cross-entropy on these, and a normal prior on their logarithms, with means ``ln clip_prior`` for b and ``ln
    prior`` for v and w. It decides as far as images don't. Where nothing can be held out, b alone is fitted and v and w
    are the prior's. A weight is never negative and never exactly 0. The probes are then fitted to all images.
    """

    class Settings(FewShotSettings):
        """The settings of ``stacking``."""

        clip_prior: Positive = 0.5
        """Median of the prior of the weight of zero-shot CLIP; below 1, for a few images hardly tell a weak CLIP."""
        prior: Positive = 0.7
        """Median of the prior of a probe's weight."""
        prior_strength: Positive = 1.0
        """Nats that a weight at e times its prior's median costs, beside the sum of the images' losses."""
        inverse_penalty: Penalty = 31.6
        """The probes' C in scikit-learn's words: the loss of an image, relative to half the weights' squared norm."""
        iterations: Passes = 200
        """Of each probe's L-BFGS, at most."""

    name = "stacking"
    family = "parts"
    uses_auxiliary = True

    def fit(self, support: Support, settings: Settings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        import torch

        from logitfusion.clip.heads import LinearHead
        from logitfusion.clip.methods.progress import portion

        held_out, seen, starts = _held_out_logits(support, settings, seed)
        weights = _weigh(held_out, support, seen, settings)
        zero_shot, *others = (float(weight) for weight in weights)
        parts = {"clip": zero_shot * support.scale * support.classifier, "auxiliary": None}
        bias = support.classifier.new_zeros(support.classes)
        for place, (branch, weight) in enumerate(zip(_branches(support), others, strict=True)):
            with portion(1.0 + place / len(others), 1.0 / len(others), 2.0):
                slope, constant = _probe(support, branch, settings, starts.get(branch))
            parts[branch] = weight * slope if parts[branch] is None else parts[branch] + weight * slope
            bias = bias + weight * constant
        names = ("zero_shot", *(f"{branch}_probe" for branch in _branches(support)))
        found = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
        with torch.no_grad():
            return LinearHead(parts["clip"], parts["auxiliary"], bias, settings={"weights": found})

    def passes(self, settings: Settings) -> int:
        return (settings.folds + 1) * settings.iterations


def _branches(support: Support) -> tuple[str, ...]:
    return ("clip",) if support.auxiliary is None else ("clip", "auxiliary")


def _probe(
    support: Support, branch: str, settings: Stacking.Settings, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Weight ``[D, C]`` and bias ``[C]``; an image is the mean of its views, made unit again.

    Args:
        start: a probe of other images, from which fewer iterations lead to the same one.
    """
    from torch.nn.functional import normalize

    from logitfusion.clip.methods.progress import tell
    from logitfusion.clip.methods.regression import regress

    evaluations, expected = count(1), 1.25 * settings.iterations  # of the line search's steps too
    features = normalize(support.features(branch).mean(1), dim=-1)
    return regress(
        features,
        support.labels,
        support.classes,
        inverse_penalty=settings.inverse_penalty,
        iterations=settings.iterations,
        start=start,
        on_evaluation=lambda: tell(min(next(evaluations), expected), expected),
    )


def _held_out_logits(
    support: Support, settings: Stacking.Settings, seed: int
) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Logits ``[P, n, C]`` of the parts, CLIP first, by probes that have not seen the image; ``[n]``, of which images
    there are such; and the last of these probes by branch."""
    import torch

    from logitfusion.clip.fitting.selection import first_of_each, held_out_folds
    from logitfusion.clip.methods.progress import portion

    fold = held_out_folds(support, settings.folds, seed)
    zero_shot = support.zero_shot()[:, 0]
    found = [zero_shot, *(torch.zeros_like(zero_shot) for _ in _branches(support))]
    probes: dict[str, tuple[Tensor, Tensor]] = {}
    folds, branches = int(fold.max()) + 1, _branches(support)
    for number, (place, branch) in product(range(folds), enumerate(branches)):
        rest, part = support.at(fold != number), fold == number
        with portion((number + place / len(branches)) / folds, 1.0 / len(branches) / folds, 2.0):
            probes[branch] = slope, constant = _probe(rest, branch, settings)
        found[place + 1][part] = support.features(branch)[part, 0] @ slope + constant
    return torch.stack(found), (fold >= 0) & first_of_each(support), probes


def _weigh(held_out: Tensor, support: Support, seen: Tensor, settings: Stacking.Settings) -> Tensor:
    """The weights of the parts, ``[P]``; those of the probes are the prior's where nothing is held out."""
    import torch
    from torch.nn.functional import cross_entropy

    from logitfusion.clip.fitting.selection import first_of_each
    from logitfusion.clip.methods.regression import minimise

    usable, free = (seen, len(held_out)) if bool(seen.any()) else (first_of_each(support), 1)
    logits, labels = held_out[:free, usable].double(), support.labels[usable]
    prior = torch.tensor([settings.clip_prior] + [settings.prior] * (len(held_out) - 1), dtype=torch.float64).log()

    def loss(shift: Tensor) -> Tensor:
        weights = (prior[:free] + shift).exp().to(logits.device)
        fused = torch.einsum("p,pnc->nc", weights, logits)
        return cross_entropy(fused, labels, reduction="sum") + settings.prior_strength * shift.square().sum()

    shift = torch.zeros_like(prior)
    shift[:free] = minimise(loss, shift[:free], iterations=100)
    return (prior + shift).exp()


METHODS = (Stacking(),)
