"""Random orders that belong to the items: a seed and an item's own name decide its place, nothing else does.

Draws made from such an order are nested (the first 1 are among the first 2), and neither another class nor the order of
a list moves them; another item of the same class only slips in at its own place.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence


def hash_seed(*parts: object) -> int:
    """A number in [0, 2**63) that the parts, as text, decide: uniform, and the same on every machine."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 1


def shuffled(names: Sequence[str], seed: int, purpose: str) -> list[int]:
    """The places of the names in their random order; draws for different purposes are independent."""
    return sorted(range(len(names)), key=lambda place: (hash_seed(purpose, seed, names[place]), names[place]))


def group_places(labels: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """The places of each label, in the order of first appearance."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        groups[label].append(place)
    return dict(groups)


def draw_share(names: Sequence[str], labels: Sequence[Hashable], share: float, seed: int, purpose: str) -> set[int]:
    """About ``share`` of each label's places, drawn at random.

    A label with at least two items keeps at least one on both sides, if ``share`` is neither 0 nor 1.
    """
    drawn: set[int] = set()
    for places in group_places(labels).values():
        count = round(share * len(places))
        if 0 < share < 1 and len(places) > 1:
            count = min(max(count, 1), len(places) - 1)
        order = shuffled([names[place] for place in places], seed, purpose)
        drawn.update(places[rank] for rank in order[:count])
    return drawn
