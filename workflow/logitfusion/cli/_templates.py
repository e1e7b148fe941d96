"""Entries of a template's config that are the user's own: models, a task, images."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from logitfusion.cli._inputs import read_field, read_rows, read_text
from logitfusion.errors import UserError

TASK = "sst2"  # of the templates
SIZES = {"train": 240, "validation": 36, "test": 100}  # sciq, the smallest of the library, has 376 examples
SHOTS = (1, 2, 4, 8, 16)
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


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


def describe_task(spec: str, *, validation: bool) -> Entry:
    """The entry of a task: one of the library, or lines of JSON with ``prompt`` and ``answer``.

    Raises:
        UserError: neither, or a file of too few lines.
    """
    library = resources.files("logitfusion").joinpath("tasks", "library")
    known = sorted(path.name.removesuffix(".yaml") for path in library.iterdir() if path.name.endswith(".yaml"))
    name, definition, sizes = spec, spec, dict(SIZES)
    if spec not in known:
        if not spec.endswith((".jsonl", ".json")):
            raise UserError(f"There is no task {spec!r}: give one of {', '.join(known)}, or a FILE.jsonl of your own.")
        rows = [
            (read_field(row, "prompt", place), read_field(row, "answer", place))
            for place, row in read_rows(spec, read_text(spec))
        ]
        name, definition, sizes = _name_of(spec), _define(spec, rows), _split(spec, len({prompt for prompt, _ in rows}))
    if not validation:
        sizes["train"] += sizes.pop("validation")
    return Entry(("tasks", name), {"definition": definition, **sizes}, {TASK: name} if name != TASK else {})


def _name_of(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path).stem).strip("_-")[:64] or "mine"


def _define(path: str, rows: list[tuple[str, str]]) -> dict[str, Any]:
    """A definition for a file's answers: numbers, a few choices, or short texts."""
    answers = list(dict.fromkeys(answer.strip() for _, answer in rows))
    words = max((len(answer.split()) for answer in answers), default=1)
    if all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for answer in answers):
        form: dict[str, Any] = {"kind": "number"}
    elif 2 <= len(answers) <= 10 and len(answers) * 4 <= len(rows):
        form = {"kind": "choice", "choices": answers}
    else:
        form = {"kind": "text", "max_words": max(words, 5)}
    return {
        "version": 1,
        "description": f"The lines of {path}",
        "source": {"kind": "jsonl", "path": path},
        "prompt": "{prompt}",
        "target": {"field": "answer"},
        "answer": form,
        "metric": "accuracy" if form["kind"] == "choice" else "exact_match",
        "max_new_tokens": 4 * words + 4,
        "split_seed": 0,
    }


def _split(path: str, count: int) -> dict[str, int]:
    """A fifth of the lines tests, a tenth validates, the rest is learnt from."""
    if count < 10:
        raise UserError(f"{path} has {count} different lines; a task needs at least 10, better hundreds.")
    sizes = {"validation": min(count // 10, 100), "test": min(count // 5, 500)}
    return {"train": count - sum(sizes.values()), **sizes}


def describe_images(folder: str, clip: str | None, auxiliary: str | None) -> list[Entry]:
    """The entries of a folder of images and of encoders that are named.

    Raises:
        UserError: the folder has no folders of images, or an encoder that is not there.
    """
    from logitfusion.clip.data.folders import class_folders, list_images

    classes = class_folders(Path(folder))
    if len(classes) < 2:
        raise UserError(f"The image folder {folder} has one class; give it a folder of images for each of several.")
    if SPLITS.issuperset(map(str.lower, classes)):  # they would be learnt as classes
        raise UserError(
            f"The folders of {folder} are splits, not classes: {', '.join(classes)}. Name one of them with --images;"
            " the config's key test_path takes another."
        )
    counts = Counter(classes[row.label] for row in list_images(Path(folder), classes))
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
    from logitfusion.cli._encoders import parse_auxiliary, parse_clip

    if clip is not None:
        found = {"source": "path", "path": clip} if Path(clip).is_dir() and parse_clip(clip) else parse_clip(clip)
        entries.append(Entry(("clip", "encoder"), found))
    if auxiliary is not None:
        entries.append(Entry(("clip", "auxiliaries", "second"), parse_auxiliary(auxiliary)))
    return entries
