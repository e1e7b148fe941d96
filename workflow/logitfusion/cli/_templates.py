"""Entries of a template's config that are the user's own: models and images; and how they are written there."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError

SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Entry:
    """What stands in place of an entry of a template.

    Attributes:
        place: keys to it, from the top, in the template's words after ``renamed``.
        value: its value, written on one line.
        renamed: words of the template -> what stands in their place everywhere else.
    """

    place: tuple[str, ...]
    value: Any
    renamed: Mapping[str, str] = field(default_factory=dict)


def fill_template(template: str, name: str, entries: list[Entry]) -> str:
    """A template with its run's name and some of its entries replaced; comments of the others stay."""
    text = template
    for old, new in (pair for entry in entries for pair in entry.renamed.items()):
        text = re.sub(rf"\b{old}\b", write_value(new), text)
    text = text.replace("run: NAME", f"run: {write_value(name)}", 1)
    for entry in entries:
        text = _replace(text, entry.place, write_value(entry.value))
    return text


def _replace(text: str, place: tuple[str, ...], value: str) -> str:
    """The text with another value at a place: an indented block of YAML, or the rest of a line."""
    lines, start = text.splitlines(keepends=True), 0
    for depth, key in enumerate(place):
        start = next(
            at for at in range(start, len(lines)) if lines[at].startswith(f"{'  ' * depth}{write_value(key)}:")
        )
    blank = "  " * len(place)
    end = next((at for at in range(start + 1, len(lines)) if not lines[at].startswith(blank)), len(lines))
    return "".join([*lines[:start], f"{'  ' * (len(place) - 1)}{write_value(place[-1])}: {value}\n", *lines[end:]])


def write_value(value: Any) -> str:
    """A value in YAML's flow style, on one line; texts that need no quotes have none."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_value(key)}: {write_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(write_value, value)) + "]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/.][A-Za-z0-9_/.-]*", value)
    words = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    return value if plain and value.lower() not in words else json.dumps(value, ensure_ascii=False)


def describe_model(spec: str) -> dict[str, Any]:
    """The entry of a model: a folder, or one of the hub.

    Raises:
        UserError: neither.
    """
    if Path(spec).is_dir():
        return {"source": "path", "path": spec}
    found = re.fullmatch(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([\w./-]+)", spec)
    if found:
        return {"source": "hub", "id": found[1], "revision": found[2]}
    raise UserError(
        f"There is no folder {spec}; give one, or a model of the hub as OWNER/NAME@REVISION (a commit, or main)."
    )


def describe_images(folder: str, clip: str | None, auxiliary: str | None) -> list[Entry]:
    """The entries of a folder of images and of encoders that are named.

    Raises:
        UserError: the folder has no folders of images, or an encoder that is not there.
    """
    from logitfusion.clip.data.folders import class_folders, list_images, refuse_splits
    from logitfusion.clip.data.found import left_out_lines

    classes = class_folders(Path(folder))
    if len(classes) < 2:
        raise UserError(f"The image folder {folder} has one class; give it a folder of images for each of several.")
    refuse_splits(Path(folder), classes)
    rows, left_out = list_images(Path(folder), classes)
    for line in left_out_lines(left_out):
        print(line, file=sys.stderr)
    counts = Counter(classes[row.label] for row in rows)
    rarest = min(counts, key=counts.__getitem__)
    if counts[rarest] < 2:
        raise UserError(
            f"The image folder {Path(folder, rarest)} has one image; a class needs one to learn and one to test."
        )
    learnt = counts[rarest] // 2  # half of each class is tested
    entries = [
        Entry(("clip", "datasets", "images"), {"source": "folder", "path": folder, "test_share": 0.5}),
        Entry(("clip", "shots"), [shots for shots in SHOTS if shots <= learnt]),
    ]
    if clip is None and auxiliary is None:
        return entries
    from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip

    if clip is not None:
        found = {"source": "path", "path": clip} if Path(clip).is_dir() and parse_clip(clip) else parse_clip(clip)
        entries.append(Entry(("clip", "encoder"), found))
    if auxiliary is not None:
        second = parse_auxiliary(auxiliary)
        if second["source"] == "package":  # the workflow fetches it, and keeps it where it keeps packages
            if "package" not in second:
                raise UserError(f"A config names packages, not wheels; write {auxiliary!r} with NAME==VERSION.")
            del second["path"]
        entries.append(Entry(("clip", "auxiliaries", "second"), second))
    return entries
