"""Where the answers of ``fewshot predict`` go: lines of JSON, a CSV, a page to look at, folders of photos."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logitfusion.clip.answers import Answer
from logitfusion.clip.data.names import NONE
from logitfusion.errors import UserError
from logitfusion.files import whole, write_jsonl


def write_answers(path: Path, answers: Sequence[Answer], truths: Sequence[str] | None) -> None:
    """A CSV if the file's name says so, else a line of JSON an image."""
    if path.suffix.lower() == ".csv":
        _write_csv(path, answers, truths)
    else:
        write_jsonl(path, json_rows(answers, truths))


def json_rows(answers: Sequence[Answer], truths: Sequence[str] | None) -> list[dict[str, Any]]:
    """A row an image; with the class that it is filed under, where that is known."""
    rows = [answer.as_row() for answer in answers]
    return rows if truths is None else [row | {"truth": truth} for row, truth in zip(rows, truths, strict=True)]


def _write_csv(path: Path, answers: Sequence[Answer], truths: Sequence[str] | None) -> None:
    rows = [_flat(row) for row in json_rows(answers, truths)]
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "error"))
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, "error"], restval="")
        writer.writeheader()
        writer.writerows(rows)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """One cell a column: the likeliest classes side by side, ``label_2 probability_2 label_3 ...``."""
    flat = {name: value for name, value in row.items() if name != "top"}
    if "label" in flat and flat["label"] is None:
        flat["label"] = NONE
    for place, best in enumerate(row.get("top", ())[1:], 2):
        flat |= {f"label_{place}": best["label"], f"probability_{place}": best["probability"]}
    return flat


def sort_photos(answers: Sequence[Answer], files: Sequence[Path], folder: Path, *, copy: bool) -> dict[str, int]:
    """Links (or copies) of photos in a folder a class, all or none; photos that can't be read are in none.

    Args:
        files: the photo of each answer.
        folder: new, or empty; of a link to a folder, that one is filled.
        copy: make copies in place of links.

    Returns:
        The class -> how many photos.

    Raises:
        UserError: links can't be made there, or something came into the folder meanwhile.
    """
    names = _folder_names([answer.label for answer in answers if answer.error is None])
    counts = dict.fromkeys(names.values(), 0)
    with whole(folder) as temporary:
        temporary.mkdir()
        for answer, file in zip(answers, files, strict=True):
            if answer.error is None:
                name = names[answer.label]
                (temporary / name).mkdir(exist_ok=True)
                _place(file, _free(temporary / name, file), copy=copy)
                counts[name] += 1
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty any more, and nothing is overwritten; name a new folder.")
    return counts


def _folder_names(labels: Sequence[str | None]) -> Mapping[str | None, str]:
    """Class -> the name of its folder; classes that a file system would take for one get a number."""
    names: dict[str | None, str] = {}
    taken: set[str] = set()
    for label in sorted(set(labels), key=lambda label: (label is None, label)):
        plain = (
            "".join("_" if one in '/\\:*?"<>|' or ord(one) < 32 else one for one in label or NONE).strip(". ") or "_"
        )
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain} ({number})"
        taken.add(name.casefold())
        names[label] = name
    return names


def _free(folder: Path, file: Path) -> Path:
    """A place in the folder that nothing has: the file's name, with a number where another photo has it."""
    place, number = folder / file.name, 1
    while place.exists() or place.is_symlink():
        number += 1
        place = folder / f"{file.stem} ({number}){file.suffix}"
    return place


def _place(file: Path, place: Path, *, copy: bool) -> None:
    if copy:
        shutil.copy2(file, place)
        return
    try:
        place.symlink_to(file.resolve())
    except (OSError, NotImplementedError) as error:
        raise UserError(f"Links can't be made in {place.parent.parent.parent} ({error}); add --copy.") from error
