"""A config out of a file: defaults filled in, names that refer to something; and a copy of it that never changes."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from logitfusion.config import errors, names
from logitfusion.config.comparisons import fill_comparisons
from logitfusion.config.run import OPTIONAL, RunConfig
from logitfusion.errors import UserError
from logitfusion.files import sha256, write_text
from logitfusion.formats.json import parse_json
from logitfusion.formats.text import check_unicode, read_text
from logitfusion.formats.yaml import LARGEST, MOST, parse_yaml
from logitfusion.provenance import hash_text

DEEPEST = 50  # levels of a config


def resolve_config(config: dict[str, Any]) -> RunConfig:
    """The typed config of what a file holds: defaults filled in, names checked.

    Raises:
        UserError: an unknown key, a value of the wrong type or range, or a name that refers to nothing.
    """
    plain = _plain(config)
    for section in OPTIONAL:
        if section in plain and plain[section] is None:
            raise UserError(f"Config key {section!r} is empty: write its keys below it, or remove it.")
    filled = _fill_shifts(plain) | _fill_seeds(plain) | fill_comparisons(plain)
    try:
        resolved = RunConfig.model_validate(plain)
    except ValidationError as error:
        raise UserError(errors.explain(error, filled)) from None
    names.check(resolved)
    return resolved


def load_config(*paths: str | Path, given: Mapping[str, Any] | None = None) -> RunConfig:
    """Read and resolve a config file; of several, each replaces values of those before it, as Snakemake does.

    Args:
        paths: of the files.
        given: values that replace those of all files, as Snakemake's ``--config``.

    Raises:
        UserError: a file is missing, is not YAML, or holds something wrong.
    """
    config: dict[str, Any] = {}
    for path in paths:
        _replace(config, _read_mapping(path))
    _replace(config, given or {})
    try:
        return resolve_config(config)
    except UserError as error:
        raise UserError(f"{' and '.join(map(str, paths))}: {error}") from None


def read_config(path: str | Path) -> Any:
    """What a config file holds, read as Snakemake does: as JSON where it is that, else as YAML.

    Raises:
        UserError: as ``read_yaml``.
    """
    title = f"The config file {path}"
    text = read_text(path, largest=LARGEST, title=title)
    try:
        return parse_json(text, title)
    except UserError:
        return parse_yaml(text, title)


def _read_mapping(path: str | Path) -> dict[str, Any]:
    config = read_config(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold a mapping of keys to values.")
    return config


def _replace(config: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put the values of another config in the place of these; mappings are merged, key by key."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            config[key] = dict(config[key])  # an alias of the file may stand elsewhere too
            _replace(config[key], value)
        else:
            config[key] = value


def write_once(folder: str | Path, run: RunConfig) -> Path:
    """Write a whole config under its digest, unless it is there: such a file never changes.

    Raises:
        UserError: the disk is full or can't be written, or the file that is there is damaged.
    """
    text = json.dumps(run.dump(), indent=2, ensure_ascii=False) + "\n"  # the order of keys is that of the plots
    path = Path(folder) / f"{hash_text(text)[:16]}.json"
    if path.exists():
        check_copy(path)
    else:
        write_text(path, text)
    return path


def check_copy(path: str | Path) -> None:
    """Refuse a copy of a config that was written once and is something else now; other files are not looked at.

    Raises:
        UserError: its bytes are not those that its name is the digest of.
    """
    path = Path(path)
    if re.fullmatch(r"[0-9a-f]{16}\.json", path.name) and path.is_file() and sha256(path)[:16] != path.stem:
        raise UserError(f"The copy {path} of a config is damaged (its name is the digest of other bytes); delete it.")


def _plain(value: Any, place: errors.Place = (), count: Iterator[int] | None = None) -> Any:
    """A deep copy made of dicts and lists alone (Snakemake hands over ordered mappings).

    Args:
        count: of the values so far.

    Raises:
        UserError: a text with characters that are not Unicode, what JSON has not, or values that are nested without
            end or multiply.
    """
    count = count or itertools.count(1)
    if len(place) > DEEPEST:
        raise UserError(f"Config key {'.'.join(place[:3])!r} is nested too deeply; does an alias contain itself?")
    if next(count) > MOST:
        raise UserError(
            f"Config key {place[0]!r} has too many values, for its aliases multiply; write it without them."
        )
    if isinstance(value, dict):
        names = [_check_unicode(str(key), place) for key in value]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise UserError(
                f"{errors.name_key('.'.join(place))} has the key {twice[0]!r} twice; leave one of them out."
            )
        return {name: _plain(inner, (*place, name), count) for name, inner in zip(names, value.values(), strict=True)}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, (*place, str(number)), count) for number, inner in enumerate(value)]
    if isinstance(value, str):
        return _check_unicode(value, place)
    if value is not None and not isinstance(value, (bool, int, float)):
        raise UserError(
            f"Config key {'.'.join(place)!r} is read as a {type(value).__name__} ({value}); write it in quotes."
        )
    return value


def _check_unicode(text: str, place: errors.Place) -> str:
    return check_unicode(text, errors.name_key(".".join(place)))


def _mappings(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a mapping that are mappings themselves."""
    if isinstance(value, dict):
        yield from ((key, inner) for key, inner in value.items() if isinstance(inner, dict))


def _fill_shifts(config: dict[str, Any]) -> set[errors.Place]:
    """Give a shifted data set the values of its origin where it has none; the places of those that were filled."""
    track = config.get("clip")
    datasets = track.get("datasets") if isinstance(track, dict) else None
    filled = set()
    for name, entry in datasets.items() if isinstance(datasets, dict) else ():
        shift = entry.get("shift_of") if isinstance(entry, dict) else None
        origin = datasets.get(shift) if isinstance(shift, str) else None
        if isinstance(origin, dict) and entry.get("source", origin.get("source")) == origin.get("source"):
            filled.add(("clip", "datasets", name))
            for key in origin.keys() - entry.keys() - {"sha256"}:
                entry[key] = copy.deepcopy(origin[key])
    return filled


def _fill_seeds(config: dict[str, Any]) -> set[errors.Place]:
    """Give every training and draw without a seed of its own the top-level one; the places that were filled."""
    owners = {(track,): config[track] for track in ("fusion", "clip") if isinstance(config.get(track), dict)}
    owners |= {("experts", name): expert for name, expert in _mappings(config.get("experts")) if "merge" not in expert}
    for name, model in _mappings(config.get("models")):
        owners |= {("models", name, key): heal for key, heal in _mappings(model) if key == "heal"}
    filled = {place for place, owner in owners.items() if owner.get("seed") is None}
    for place in filled:
        owners[place]["seed"] = config.get("seed", 0)
    return {(*place, "seed") for place in filled}
