"""Photos as columns for the script of the page, which draws the sheets."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from logitfusion.report.photos.photos import Photos

if TYPE_CHECKING:
    from logitfusion.clip.answers import Answer

NONE = -1  # the label of "none of these"; photo_sheet.js knows it too
MOST_PICTURES = 3000  # in a page: some 20 MB


def encode_photos(photos: Photos) -> dict[str, Any]:
    """Columns of the photos that were read: ``id answer chance uncertainty clip clip_chance picture note``.

    ``label`` and ``link`` are there where they are known; chances are in thousandths.
    """
    places = photos.readable()
    answers = [photos.answers[place] for place in places]
    label_of = {name: label for label, name in enumerate(photos.classes)}
    copies = {path: group for group in photos.duplicates for path in group}
    shown = set(_most_wanted(photos, places))
    columns: dict[str, Any] = {
        "classes": list(photos.classes),
        "id": shorten([answer.path for answer in answers]),
        "answer": [NONE if answer.label is None else label_of[answer.label] for answer in answers],
        "chance": [thousandths(answer.probability) for answer in answers],
        "uncertainty": [round(answer.uncertainty, 2) for answer in answers],
        "clip": [label_of[answer.clip_label] for answer in answers],
        "clip_chance": [thousandths(answer.clip_probability) for answer in answers],
        "picture": [to_uri(photos.thumbnail(photos.answers[place].path)) if place in shown else "" for place in places],
        "note": [_note(answer, copies.get(answer.path, ())) for answer in answers],
    }
    if photos.truths is not None:
        columns["label"] = [label_of[photos.truths[place]] for place in places]
    if photos.folder is not None:
        columns["link"] = [link_photo(answer.path, photos.folder) for answer in answers]
    return columns


def shorten(paths: Sequence[str]) -> list[str]:
    """Paths below the folder that all of them are in."""
    folders = {str(Path(path).parent) for path in paths}
    try:
        common = os.path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives, or some of them relative
        return list(paths)
    return [os.path.relpath(path, common) for path in paths] if common else list(paths)


def thousandths(probability: float) -> int:
    """A probability as the page keeps it."""
    return round(1000 * probability)


def to_uri(content: bytes | None) -> str:
    """A WebP as an address that holds it; empty for none."""
    return "" if content is None else f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def link_photo(path: str, folder: str) -> str:
    """The address of a photo from a page in ``folder``, so that both can move together."""
    try:
        return quote(os.path.relpath(path, folder).replace(os.sep, "/"), errors="surrogateescape")
    except ValueError:  # another drive
        return Path(path).absolute().as_uri()


def _most_wanted(photos: Photos, places: Sequence[int]) -> list[int]:
    """The photos whose pictures are shown where there are too many: wrong ones first, then the least sure."""

    def order(place: int) -> tuple[bool, float]:
        answer = photos.answers[place]
        return photos.truths is None or photos.truths[place] == answer.label, answer.probability

    return sorted(places, key=order)[:MOST_PICTURES]


def _note(answer: Answer, copies: Sequence[str]) -> str:
    """What else is known of a photo, in a few words."""
    words = ["the head was fitted on it"] if answer.learnt else []
    if len(copies) > 1:
        words.append(f"one of {len(copies)} with equal contents")
    return "; ".join(words)
