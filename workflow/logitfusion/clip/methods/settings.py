"""The settings of every few-shot method: defaults, and what is searched. The one place of hyper-parameters.

Nothing here needs torch, so that a config is checked in no time.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

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
# With one image a class nothing can be held out: then these values, but for ``amu_classes`` see ``amu.trust_in_clip``.
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
BY_EPOCHS = ("tip_adapter_f", "lp_plus_plus", "taskres", "amu", "amu_no_a", "amu_no_m", "amu_no_u", "amu_classes")


# What settings that are words may be.
CHOICES = {
    "selection": ("fixed", "cross_validation"),
    "kind": ("kurtosis", "entropy", "energy", "max", "max_min", "var", "top5", "none"),
    "views": ("all", "plain"),
    "branch": ("auxiliary", "clip"),
}


def complete_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """``DEFAULTS[name]`` with these changes.

    Raises:
        UserError: names the setting that is none, can't have its value, or would be chosen by cross-validation.
    """
    if name not in DEFAULTS:
        raise UserError(f"There is no few-shot method {name!r}; known are {', '.join(METHODS)}.")
    unknown = sorted(set(settings) - set(DEFAULTS[name]))
    if unknown:
        raise UserError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(DEFAULTS[name])}.")
    for setting, value in settings.items():
        _check(name, setting, value)
    complete = DEFAULTS[name] | settings
    if complete["selection"] == "cross_validation":
        if name not in GRIDS:
            raise UserError(f'{name} has nothing to be selected from: set its selection to "fixed".')
        taken = [one for one in GRIDS[name][0] if complete[one] != DEFAULTS[name][one]]
        if taken:
            raise UserError(f"{name} chooses {taken[0]} by cross-validation; to set it, set selection to fixed too.")
    return complete


def _check(method: str, name: str, value: Any) -> None:
    """Refuse a value of a type or range that the setting does not have."""
    default = DEFAULTS[method][name]
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name in ("reference", "temperature"):
        fits, words = (number and value > 0) or value == "classes", 'a positive number or "classes"'
    elif name in CHOICES:
        fits, words = value in CHOICES[name], f"one of {', '.join(CHOICES[name])}"
    elif name == "lambda":
        fits, words = number and 0 <= value <= 1, "a number from 0 to 1"
    elif isinstance(default, int):
        fits, words = number and isinstance(value, int) and value >= 1, "a whole number of at least 1"
    else:
        fits, words = number and value >= 0, "a number of at least 0"
    if not fits:
        raise UserError(f"{name} of {method} is {words}, not {value!r}.")
