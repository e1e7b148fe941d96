"""Shapes of caches that do not grow, rounded up so that few serve many batches."""

from __future__ import annotations

_SLOTS = 64  # the fewest of a row


def static_shape(rows: int, length: int) -> tuple[int, int]:
    """Rows and slots of a cache for so many rows of that length, each by at most a quarter more (or 64 slots)."""
    return _round_up(rows), _SLOTS * _round_up(-(-length // _SLOTS))


def _round_up(number: int) -> int:
    """The next number that three leading bits write."""
    unit = 2 ** max(0, number.bit_length() - 3)
    return -(-number // unit) * unit
