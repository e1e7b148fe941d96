"""Settings of a few-shot method on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from logitfusion.clip.confidence import KINDS
from logitfusion.clip.methods import DEFAULTS, GRIDS, complete_settings
from logitfusion.errors import UserError

CHOICES = {"kind": tuple(KINDS), "views": ("all", "plain"), "branch": ("auxiliary", "clip")}


def parse_settings(method: str, pairs: Sequence[str]) -> dict[str, Any]:
    """``["alpha=0.5", ...]`` as settings of the method, each of the type and range that it has.

    Raises:
        UserError: names the setting that is none, or that cross-validation would choose.
    """
    complete_settings(method, {})
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r} has no value; write it as NAME=VALUE.")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    chosen = complete_settings(method, settings)
    for name, value in settings.items():
        _check_setting(method, name, value)
    taken = sorted(set(settings) & set(GRIDS.get(method, [{}])[0]))
    if taken and chosen["selection"] == "cross_validation":
        raise UserError(f"{method} chooses {taken[0]} by cross-validation; to set it, add selection=fixed to --set.")
    return settings


def _check_setting(method: str, name: str, value: Any) -> None:
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
    elif isinstance(default, float):
        fits, words = number and value >= 0, "a number of at least 0"
    else:
        return  # of selection, which complete_settings has checked
    if not fits:
        raise UserError(f"{name} of {method} is {words}, not {value!r}.")
