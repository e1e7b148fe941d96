"""In which keys two configs, or parts of them, differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from logitfusion.config.errors import LONGEST

_ABSENT = object()


class Difference(NamedTuple):
    """A key with two values, as JSON, cut where they are long; ``nothing`` where it is missing."""

    key: str
    """With dots."""
    first: str
    second: str


def find_differences(first: Any, second: Any, place: str = "") -> Iterator[Difference]:
    """All keys in which two values differ, in the order of the alphabet; lists are values as a whole."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            sides = (side.get(key, _ABSENT) for side in (first, second))
            yield from find_differences(*sides, f"{place}.{key}" if place else key)
        return
    said = _say(first), _say(second)
    if said[0] != said[1]:
        yield Difference(place, *map(_cut, said))


def _say(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
