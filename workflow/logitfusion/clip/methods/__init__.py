"""Every few-shot method by name. A method is one file here, and one name in ``_FILES``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from logitfusion.clip.methods.base import FewShotMethod, FewShotSettings
from logitfusion.errors import UserError

__all__ = ["DEFAULT_METHOD", "METHODS", "FewShotMethod", "FewShotSettings", "complete_settings"]

# The command's own choice, and what a page calls ours.
DEFAULT_METHOD = "stacking"

# In the order of lists and tables.
_FILES = ("zero_shot", "probe", "tip_adapter", "lp_plus_plus", "gda", "taskres", "amu", "stacking")

METHODS: dict[str, FewShotMethod] = {
    method.name: method for file in _FILES for method in import_module(f"{__name__}.{file}").METHODS
}


def complete_settings(name: str, given: Mapping[str, Any]) -> FewShotSettings:
    """The settings of a method, with what is given in place of defaults.

    Raises:
        UserError: names the method or the setting that does not exist, a value that a setting can't have, or a setting
            that is left to cross-validation.
    """
    if name not in METHODS:
        raise UserError(f"There is no few-shot method {name!r}; known are {', '.join(METHODS)}.")
    return METHODS[name].complete(given)
