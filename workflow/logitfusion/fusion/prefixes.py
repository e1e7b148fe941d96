"""Prompts that begin alike, as those with the same examples do: which tokens a batch reads once for all of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor

LEAST = 16  # tokens; a pass of its own for fewer costs more than it saves

Tokens = Sequence[int]


def common_prefix(rows: Sequence[Tokens]) -> int:
    """How many tokens all rows begin with, but for the last of the shortest; 0 where reading them once saves little."""
    if len(rows) < 2:
        return 0
    first, last = min(rows), max(rows)  # all others are between them
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    shared = min(shared, min(map(len, rows)) - 1)
    return shared if shared >= LEAST else 0


def prefix_of(ids: Tensor, mask: Tensor) -> int:
    """``common_prefix`` of left-padded rows ``ids [B, L]`` where ``mask`` is 1."""
    return common_prefix([row[row_mask == 1].tolist() for row, row_mask in zip(ids, mask, strict=True)])


def order_rows(rows: Sequence[Tokens], size: int, *, shares: bool) -> list[int]:
    """Numbers of rows in the order in which batches of ``size`` read fewest tokens, padding included.

    By length, which leaves little padding; or by their tokens, which brings together what begins alike. Equal rows stay
    in their order, next to each other.

    Args:
        shares: whether what rows begin with alike is read once.
    """
    by_tokens = sorted(range(len(rows)), key=lambda number: tuple(rows[number]))
    by_length = sorted(by_tokens, key=lambda number: len(rows[number]))
    return min(by_length, by_tokens, key=lambda order: _count(rows, order, size)) if shares else by_length


def _count(rows: Sequence[Tokens], order: Sequence[int], size: int) -> int:
    """Tokens that are read."""
    batches = [[rows[number] for number in order[start : start + size]] for start in range(0, len(order), size)]
    return sum(_count_batch(batch) for batch in batches)


def _count_batch(batch: Sequence[Tokens]) -> int:
    prefix = common_prefix(batch)
    return prefix + len(batch) * (max(map(len, batch)) - prefix)
