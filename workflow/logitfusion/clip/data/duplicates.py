"""Images of equal content: which there are, and what they are called where people read of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def groups(digests: Sequence[str]) -> Tensor:
    """The group of each image, ``[n]`` int64 from 0 in the order of first appearance: equal content, equal number."""
    number = {digest: place for place, digest in enumerate(dict.fromkeys(digests))}
    return torch.tensor([number[digest] for digest in digests], dtype=torch.int64)


@dataclass(frozen=True)
class Duplicates:
    """Images that are the same bytes under several names.

    Attributes:
        sets: the ids of each content that is there more than once.
        at_odds: those of ``sets`` whose images have more than one label.
    """

    sets: list[list[str]]
    at_odds: list[list[str]]


def find_duplicates(ids: Sequence[str], digests: Sequence[str], labels: Sequence[int]) -> Duplicates:
    """The images that are there more than once."""
    places: dict[str, list[int]] = {}
    for place, digest in enumerate(digests):
        places.setdefault(digest, []).append(place)
    several = [found for found in places.values() if len(found) > 1]
    odd = [found for found in several if len({labels[place] for place in found}) > 1]
    return Duplicates(*([[ids[place] for place in found] for found in one] for one in (several, odd)))


def describe_duplicates(duplicates: Duplicates) -> list[str]:
    """Whole sentences about them, the first few by name; none where there are no duplicates."""
    lines = []
    if duplicates.sets:
        copies = _count(sum(len(found) - 1 for found in duplicates.sets), "image is a copy", "images are copies")
        lines.append(f"{copies} of another, to the byte: {_some(duplicates.sets)}.")
    if duplicates.at_odds:
        odd = _count(len(duplicates.at_odds), "picture is", "pictures are")
        lines.append(f"{odd} in more than one class, to the byte: {_some(duplicates.at_odds)}.")
    return lines


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _some(sets: Sequence[Sequence[str]], most: int = 3) -> str:
    named = "; ".join(" = ".join(found[:most]) + (" = ..." if len(found) > most else "") for found in sets[:most])
    return named + (f"; and {len(sets) - most} more" if len(sets) > most else "")


def find_learned(digests: Sequence[str], learned: Iterable[str]) -> list[int]:
    """The places of the images whose content a head was fitted to."""
    known = set(learned)
    return [place for place, digest in enumerate(digests) if digest in known]
