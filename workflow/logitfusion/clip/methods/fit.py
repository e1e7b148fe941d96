"""Every few-shot method by name; their settings stand in ``logitfusion.clip.methods.settings``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from logitfusion.clip.heads import Head, Support
from logitfusion.clip.methods.amu import fit_amu, trust_in_clip
from logitfusion.clip.methods.gda import fit_gda
from logitfusion.clip.methods.lp_plus_plus import fit_lp_plus_plus
from logitfusion.clip.methods.probe import fit_auxiliary_probe, fit_clip_probe, fit_logit_sum, fit_zero_shot
from logitfusion.clip.methods.settings import BY_EPOCHS, DEFAULTS, GRIDS, METHODS, NEED_AUXILIARY, complete_settings
from logitfusion.clip.methods.taskres import fit_taskres
from logitfusion.clip.methods.tip_adapter import fit_tip_adapter, fit_tip_adapter_f
from logitfusion.clip.selection import cross_validate

__all__ = ["BY_EPOCHS", "DEFAULTS", "GRIDS", "METHODS", "NEED_AUXILIARY", "complete_settings", "fit_method"]

_FITS: dict[str, Callable[..., Head]] = {
    "zero_shot": fit_zero_shot,
    "clip_probe": fit_clip_probe,
    "auxiliary_probe": fit_auxiliary_probe,
    "logit_sum": fit_logit_sum,
    "tip_adapter": fit_tip_adapter,
    "tip_adapter_f": fit_tip_adapter_f,
    "lp_plus_plus": fit_lp_plus_plus,
    "gda": fit_gda,
    "taskres": fit_taskres,
}


def fit_method(
    name: str,
    support: Support,
    settings: dict[str, Any] | None = None,
    *,
    seed: int,
    on_epoch: Callable[[int, Head], None] | None = None,
) -> Head:
    """Fit one method on the support set, and on nothing else.

    Args:
        name: one of ``METHODS``.
        settings: what differs from ``DEFAULTS[name]``.
        seed: of the order of images, their views and the folds.
        on_epoch: called with the epoch (from 1) and the head as it is then, by methods of ``BY_EPOCHS``; what it does
            has no part in the fit, so an evaluation can keep these heads and report the best as an oracle.

    Returns:
        A head: ``head.logits(clip [m, D], auxiliary [m, D_aux] or None) -> [m, C]`` fp32; ``head.settings`` has every
        setting, those selected too, and ``selected`` says whether they were.

    Raises:
        UserError: unknown names of method or settings, a method without a grid to be selected from, or one that needs
            auxiliary features without any.
    """
    complete = complete_settings(name, settings or {})
    selected = complete["selection"] == "cross_validation"
    if selected:
        candidates = [complete | choice for choice in GRIDS[name]]
        losses = cross_validate(
            partial(_fit_all, name, seed=seed), support, candidates, folds=complete["folds"], seed=seed
        )
        selected = losses is not None
        if selected:
            best = int(losses.argmin())
            complete = candidates[best] | {"held_out_loss": float(losses[best])}
        elif name == "amu_classes":
            complete |= trust_in_clip(support, complete)
    if name.startswith("amu"):
        (head,) = fit_amu(support, [complete], seed=seed, on_epoch=on_epoch)
    elif name in BY_EPOCHS:
        head = _FITS[name](support, complete, seed=seed, on_epoch=on_epoch)
    else:
        head = _FITS[name](support, complete, seed=seed)
    return replace(head, method=name, settings=complete | {"selected": selected, "seed": seed})


def _fit_all(name: str, support: Support, candidates: Sequence[dict[str, Any]], *, seed: int) -> Sequence[Head]:
    if name.startswith("amu"):
        return fit_amu(support, candidates, seed=seed)
    return [_FITS[name](support, settings, seed=seed) for settings in candidates]
