"""Settings of a few-shot method on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from logitfusion.clip.methods import complete_settings
from logitfusion.errors import UserError


def parse_settings(method: str, pairs: Sequence[str]) -> dict[str, Any]:
    """``["alpha=0.5", ...]`` as settings of the method, checked.

    Raises:
        UserError: names the setting that does not exist, can't have its value, or is left to cross-validation.
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
    complete_settings(method, settings)
    return settings
