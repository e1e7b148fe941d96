"""Options of a fusion out of the text of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from logitfusion.errors import UserError


def parse_weights(weights: str | float | Sequence[float]) -> str | float | list[float]:
    """``"dynamic"``, a number, or several separated by commas or semicolons; what is no text stays as it is.

    Raises:
        UserError: a text of something else.
    """
    if weights == "dynamic" or not isinstance(weights, str):
        return weights
    numbers = parse_numbers(weights, 'weights ("dynamic" or numbers)')
    return numbers[0] if len(numbers) == 1 else numbers


def parse_numbers(text: str | Sequence[float], name: str) -> list[float]:
    """Numbers separated by commas or semicolons.

    Raises:
        UserError: something else stands between the separators.
    """
    if not isinstance(text, str):
        return list(text)
    try:
        return [float(number) for number in text.replace(";", ",").split(",")]
    except ValueError:
        raise UserError(f"{name} can't be {text!r}; separate several numbers by commas, as in 1.0,0.5.") from None


def parse_folders(folders: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """Model folders separated by semicolons."""
    if isinstance(folders, (str, Path)):
        return [folder for folder in str(folders).split(";") if folder]
    return list(folders)
