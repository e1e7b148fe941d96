"""Every few-shot method by name, with its defaults and what is searched: the one place of hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from logitfusion.clip.amu import fit_amu
from logitfusion.clip.gda import fit_gda
from logitfusion.clip.heads import Head, Support
from logitfusion.clip.lpplusplus import fit_lp_plus_plus
from logitfusion.clip.probe import fit_auxiliary_probe, fit_clip_probe, fit_logit_sum, fit_zero_shot
from logitfusion.clip.selection import cross_validate
from logitfusion.clip.taskres import fit_taskres
from logitfusion.clip.tip_adapter import fit_tip_adapter, fit_tip_adapter_f
from logitfusion.errors import UserError

# 31.6: the 0.316 of CLIP's published probe, whose features have a norm of about 10; ours have 1.
_PROBE = {"inverse_penalty": 31.6, "iterations": 1000, "views": "all"}
_ADAMW = {"learning_rate": 1e-3, "weight_decay": 0.01, "epsilon": 1e-4}
_AMU = {
    "alpha": 0.5,
    "lambda": 0.35,
    "power": 0.4,
    "reference": 250.0,
    "kind": "kurtosis",
    "temperature": 1.0,
    "branch": "auxiliary",
    "epochs": 50,
    "batch": 8,
    **_ADAMW,
}

# "selection" is "fixed" (these values) or "cross_validation" (over GRIDS, on the support set, in up to "folds" parts).
DEFAULTS: dict[str, dict[str, Any]] = {
    "zero_shot": {},
    "clip_probe": {**_PROBE},
    "auxiliary_probe": {**_PROBE},
    "logit_sum": {**_PROBE, "alpha": 1.0},
    "tip_adapter": {"alpha": 1.0, "beta": 5.5},
    "tip_adapter_f": {"alpha": 1.0, "beta": 5.5, "epochs": 20, "batch": 256, **_ADAMW},
    "lp_plus_plus": {"iterations": 300, "views": "all"},
    "gda": {"alpha": 1.0, "views": "all"},
    "taskres": {
        "alpha": 0.5,
        "epochs": 100,
        "batch": 256,
        "learning_rate": 2e-3,
        "weight_decay": 0.0,
        "epsilon": 1e-8,
    },
    "amu": _AMU,
    "amu_no_a": _AMU | {"branch": "clip"},
    "amu_no_m": _AMU | {"lambda": 1.0},
    "amu_no_u": _AMU | {"kind": "none"},
    "amu_classes": _AMU | {"reference": "classes", "temperature": "classes"},
}
DEFAULTS = {name: values | {"selection": "fixed", "folds": 4} for name, values in DEFAULTS.items()}
DEFAULTS["amu_classes"]["selection"] = "cross_validation"

_PENALTIES = [{"inverse_penalty": value} for value in (1.0, 10.0, 31.6, 100.0, 1000.0)]
_CACHE = [{"alpha": alpha, "beta": beta} for alpha, beta in product((0.5, 1.0, 2.0, 5.0, 10.0), (1.0, 3.0, 5.5, 10.0))]

# What cross-validation chooses among; a setting that is not named keeps its value.
GRIDS: dict[str, list[dict[str, Any]]] = {
    "clip_probe": _PENALTIES,
    "auxiliary_probe": _PENALTIES,
    "logit_sum": [{"alpha": value} for value in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)],
    "tip_adapter": _CACHE,
    "tip_adapter_f": _CACHE,
    "gda": [{"alpha": value} for value in (0.001, 0.01, 0.1, 1.0, 10.0)],
    "taskres": [{"alpha": value} for value in (0.1, 0.5, 1.0)],
    # From zero-shot CLIP alone (alpha 0) to the auxiliary head alone (alpha 16). With lambda 0 they share one training.
    "amu_classes": [
        {"lambda": 0.0, "alpha": alpha, "power": power}
        for alpha, power in product((0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 16.0), (0.0, 0.4, 0.8))
    ]
    + [{"lambda": 0.35, "alpha": alpha, "power": 0.4} for alpha in (0.125, 0.25, 0.5, 1.0)],
}

METHODS = tuple(DEFAULTS)
NEED_AUXILIARY = ("auxiliary_probe", "logit_sum", "amu", "amu_no_m", "amu_no_u", "amu_classes")
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
BY_EPOCHS = ("tip_adapter_f", "lp_plus_plus", "taskres", "amu", "amu_no_a", "amu_no_m", "amu_no_u", "amu_classes")


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
    if name.startswith("amu"):
        (head,) = fit_amu(support, [complete], seed=seed, on_epoch=on_epoch)
    elif name in BY_EPOCHS:
        head = _FITS[name](support, complete, seed=seed, on_epoch=on_epoch)
    else:
        head = _FITS[name](support, complete, seed=seed)
    return replace(head, method=name, settings=complete | {"selected": selected, "seed": seed})


def complete_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """``DEFAULTS[name]`` with these changes; a ``UserError`` for names that are not there."""
    if name not in DEFAULTS:
        raise UserError(f"There is no few-shot method {name!r}; known are {', '.join(METHODS)}.")
    unknown = sorted(set(settings) - set(DEFAULTS[name]))
    if unknown:
        raise UserError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(DEFAULTS[name])}.")
    complete = DEFAULTS[name] | settings
    if complete["selection"] not in ("fixed", "cross_validation"):
        raise UserError(f'selection of {name} is "fixed" or "cross_validation", not {complete["selection"]!r}.')
    if complete["selection"] == "cross_validation" and name not in GRIDS:
        raise UserError(f'{name} has nothing to be selected from: set its selection to "fixed".')
    return complete


def _fit_all(name: str, support: Support, candidates: Sequence[dict[str, Any]], *, seed: int) -> Sequence[Head]:
    if name.startswith("amu"):
        return fit_amu(support, candidates, seed=seed)
    return [_FITS[name](support, settings, seed=seed) for settings in candidates]
