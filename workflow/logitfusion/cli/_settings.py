"""Settings of a few-shot method on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from logitfusion.clip.methods import FewShotSettings, complete_settings
from logitfusion.errors import UserError
from logitfusion.formats.json import parse_json


def parse_settings(method: str, pairs: Sequence[str]) -> FewShotSettings:
    """The settings of a method with those of ``["alpha=0.5", ...]`` changed.

    Raises:
        UserError: names the setting that does not exist, can't have its value, or is left to cross-validation.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r} has no value; write it as NAME=VALUE.")
        try:
            settings[name] = parse_json(text, f"--set {name}")
        except UserError:
            settings[name] = text
    return complete_settings(method, settings)
