"""Configs in which one thing is odd: a value, a key that is gone or new, a part in the place of another."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

import yaml
from odd_numbers import IN_YAML

Place = tuple[str | int, ...]


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every value of a config, outer ones first."""
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*place, key))


def find(config: Any, place: Place) -> Any:
    for key in place:
        config = config[key]
    return config


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write(config: dict[str, Any], odd: dict[Place, str]) -> str:
    """YAML of a config with raw text at some places."""
    config, marks = copy.deepcopy(config), {}
    for number, (place, text) in enumerate(odd.items()):
        marks[f"MARK-{number}-"] = text
        find(config, place[:-1])[place[-1]] = f"MARK-{number}-"
    written = yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=10**6)
    for mark, text in marks.items():
        written = written.replace(mark, text)
    return written


def draw_number(config: dict[str, Any], draw: Random) -> tuple[str, str]:
    """One number of the config as it should not be written: its place and the YAML."""
    place = draw.choice([one for one in places(config) if is_number(find(config, one))])
    text = draw.choice(IN_YAML)
    return f"{'.'.join(map(str, place))}: {text[:40]}", write(config, {place: text})


def draw_change(config: dict[str, Any], draw: Random) -> tuple[str, str]:
    """One part of the config lost, moved, doubled, or of another type: what was done and the YAML."""
    config = copy.deepcopy(config)
    place = draw.choice(list(places(config)))
    holder, key = find(config, place[:-1]), place[-1]
    where = ".".join(map(str, place))
    match draw.choice(["lose", "rename", "replace", "swap", "nest", "text"]):
        case "lose":
            del holder[key]
            return f"{where} lost", write(config, {})
        case "rename" if isinstance(holder, dict):
            new = draw.choice(
                ["", " ", "a b", "../up", "é", "x" * 300, "CON", "a/b", "{task}", "0", "*", str(key).upper()]
            )
            holder[new] = holder.pop(key)
            return f"{where} is now {new!r}", write(config, {})
        case "swap":
            other = draw.choice(list(places(config)))
            holder[key] = copy.deepcopy(find(config, other))
            return f"{where} is {'.'.join(map(str, other))}", write(config, {})
        case "nest":
            holder[key] = draw.choice([[holder[key]], {str(key): holder[key]}, [[]], {"": {}}])
            return f"{where} nested", write(config, {})
        case "text":
            text = draw.choice(
                ["", " ", "\n", "é", "../../etc", "/", "~", "-", "{}", "{task}", "%s", "\x07", "a" * 5000]
            )
            holder[key] = text
            return f"{where} is {text[:20]!r}", write(config, {})
    text = draw.choice(IN_YAML)
    return f"{where}: {text[:40]}", write(config, {place: text})
