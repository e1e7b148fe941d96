"""What `logitfusion plan` says that a fusion's memory is, to be held against what was measured."""

from __future__ import annotations

from collections.abc import Callable

from decoding.sizes import Setting

Predicted = Callable[[int, int, int], int]
"""Bytes at the peak of decoding, for rows, tokens of a prompt, and tokens that are made."""


def predict_decoding(setting: Setting, dtype: str) -> Predicted | None:
    """None where the plan has no word on it."""
    return None
