"""Options of a fusion as the texts of a command line or of the harness's ``model_args``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.keywords import read_options
from logitfusion.errors import UserError


def parse_options(given: Mapping[str, Any], spell: Callable[[str], str] = str) -> FusionOptions:
    """Options of which weights and bounds may be texts.

    Raises:
        UserError: an option that is unknown or can't be used; ``spell`` gives its name as the user writes it.
    """
    texts = {name: value for name, value in given.items() if name in ("weights", "bounds") and isinstance(value, str)}
    numbers = {name: _parse_numbers(text, spell(name)) for name, text in texts.items() if text != "dynamic"}
    if len(numbers.get("weights", ())) == 1:
        numbers["weights"] = numbers["weights"][0]
    options = {**given, **numbers}
    if "bounds" in options and len(options["bounds"]) > 2:
        options["bounds"] = _in_pairs(options["bounds"])
    return read_options(FusionOptions, options, spell)


def _in_pairs(bounds: Sequence[Any]) -> Sequence[Any]:
    """Numbers in a row as the bounds of one expert after another; pairs stay what they are."""
    numbers = all(isinstance(bound, (int, float)) for bound in bounds)
    return [bounds[place : place + 2] for place in range(0, len(bounds), 2)] if numbers else bounds


def _parse_numbers(text: str, name: str) -> list[float]:
    """Numbers separated by commas or semicolons.

    Raises:
        UserError: something else is between the separators.
    """
    try:
        return [float(number) for number in text.replace(";", ",").split(",")]
    except ValueError:
        raise UserError(f"{name} can't be {text!r}; write numbers separated by commas, as in 1.0,0.5.") from None


def parse_folders(folders: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """Model folders separated by semicolons."""
    if isinstance(folders, (str, Path)):
        return [folder for folder in str(folders).split(";") if folder]
    return list(folders)
